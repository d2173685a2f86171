//! Words from outside do not reach a terminal as commands, nor as lines of ours.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread;

use anyhow::Result;
use pagelift_tests::{Bed, Programs, Run};

/// A monitor whose refusal clears the screen and says that all is well.
#[test]
fn a_monitor_cannot_speak_for_pagelift() -> Result<()> {
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let monitor = bed.dir().join("monitor");
    let listener = UnixListener::bind(&monitor)?;
    let answers = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"{\"QMP\": {}}\n")?;
        BufReader::new(stream.try_clone()?).read_line(&mut String::new())?;
        stream.write_all(
            b"{\"error\": {\"class\": \"GenericError\", \"desc\": \
              \"\\u001b[2J\\nthe guest runs on the target\\u202e\"}, \"id\": 1}\n",
        )
    });
    let mut command = programs.command(&bed, "pagelift-send");
    // Nobody is called before the guest is known.
    let unused = TcpListener::bind("127.0.0.1:0")?;
    let to = format!("tcp://{}", unused.local_addr()?);
    command.arg("--qmp").arg(&monitor).args(["--to", &to]);
    let finished = Run::start(&bed, "send", command)?.wait()?;
    answers.join().expect("no panic")?;
    assert_eq!(finished.code(), 1, "{finished:?}");
    let said = &finished.stderr;
    let quoted = r"\u{1b}[2J\nthe guest runs on the target\u{202e}";
    assert!(said.contains(quoted), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
    assert!(
        said.lines().all(|line| !line.starts_with("the guest runs")),
        "{said}"
    );
    bed.finish();
    Ok(())
}
