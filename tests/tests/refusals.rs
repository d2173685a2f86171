//! Guests that stay where they are, each for a reason that is said with its remedy.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use anyhow::{Context, Result};
use pagelift_tests::contract::check_failed;
use pagelift_tests::{
    Bed, Finished, PATIENCE, Programs, Qemu, Snapshot, Ticks, Workload, guest_images, require,
};
use serde_json::json;

const MIB: u64 = 1 << 20;

fn small() -> Workload {
    Workload {
        memory_mib: 160,
        fill_bytes: 16 * MIB,
        rate_bytes_per_s: 4 * MIB,
        ..Workload::default()
    }
}

/// Asserts that a program said no: exit code 1, a failed object, and the same words for people.
fn assert_refused(finished: &Finished, code: &str, words: &[&str]) -> Result<()> {
    assert_eq!(finished.code(), 1, "{finished:?}");
    let report = finished.json()?;
    let (got, message) = check_failed(&report, "failed");
    assert_eq!(got, code, "{message}");
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
        assert!(finished.stderr.contains(word), "{}", finished.stderr);
    }
    assert!(finished.stderr.contains("the guest is on the source"));
    Ok(())
}

#[test]
fn ram_that_only_qemu_can_see() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let source = Qemu::builder(&bed, &images)
        .workload(&small())
        .start("source")?;
    let before = Snapshot::of(&source)?;
    let finished = programs.send(&bed, &source, NOBODY, &[])?;
    let words = [
        "memory backend pc.ram is memory-backend-ram with share=off",
        "start the guest with `pagelift run -- ...`",
    ];
    assert_refused(&finished.wait()?, "guest", &words)?;
    before.assert_same(&source)?;
    source.wait_ticks(2)?;
    drop(source);
    bed.finish();
    Ok(())
}

/// Its reads could not be tracked; `moves_shapes.rs` moves such a guest.
#[test]
fn a_disk_that_bypasses_the_page_cache() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let disk = bed.dir().join("disk.img");
    std::fs::File::create(&disk)?.set_len(MIB)?;
    let drive = format!("file={},format=raw,if=virtio,cache=none", disk.display());
    let machine = Qemu::builder(&bed, &images).workload(&small());
    let source = programs
        .wrap(machine)
        .arg("-drive")
        .arg(drive)
        .start("source")?;
    let finished = programs.send(&bed, &source, NOBODY, &[])?;
    let words = ["driver file) bypasses the page cache", "--buffer-disks"];
    assert_refused(&finished.wait()?, "guest", &words)?;
    assert_eq!(source.run_state()?, "running");
    source.wait_ticks(2)?;
    drop(source);
    bed.finish();
    Ok(())
}

#[test]
fn shared_ram_without_the_agent() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let ram = bed.shm_file("ram", small().memory_mib * MIB)?;
    let source = Qemu::builder(&bed, &images)
        .workload(&small())
        .ram_file(ram.path())
        .start("source")?;
    let before = Snapshot::of(&source)?;
    let finished = programs.send(&bed, &source, NOBODY, &[])?;
    let words = ["no agent in QEMU process", "`pagelift run -- "];
    assert_refused(&finished.wait()?, "guest", &words)?;
    before.assert_same(&source)?;
    source.wait_ticks(2)?;
    drop((source, ram));
    bed.finish();
    Ok(())
}

/// Nobody listens there: a port of the kind that no program is given by chance.
const NOBODY: &str = "tcp://127.0.0.1:1";

/// Says `greeting` to all who come, until the tests end; gives the port.
fn something_else(greeting: &'static [u8]) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let spoken = (&stream).write_all(greeting);
            // Until the other side has read it.
            let _ = spoken.and_then(|()| BufReader::new(stream).skip_until(0));
        }
    });
    Ok(port)
}

/// One guest that is asked for wrongly in many ways; each leaves it as it was, and in the end
/// it moves.
#[test]
fn wrong_ways_out_leave_no_trace() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = small();
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&workload));
    let source = machine.clone().start("source")?;
    source.wait_ticks(2)?;
    let before = Snapshot::of(&source)?;
    assert!(!before.is_tracked());
    let refused = |to: &str, code: &str, words: &[&str]| -> Result<()> {
        let finished = programs.send(&bed, &source, to, &[])?.wait()?;
        assert_refused(&finished, code, words).with_context(|| to.to_owned())?;
        before.assert_same(&source)
    };

    refused(NOBODY, "link", &["Connection refused", "pagelift-receive"])?;
    // A name that does not exist by its very name (RFC 6761).
    refused("tcp://host.invalid:1", "link", &["host.invalid"])?;
    let other = format!("tcp://127.0.0.1:{}", something_else(b"SSH-2.0-x\r\n")?);
    let words = ["does not speak pagelift's protocol", "SSH-2.0-", "port"];
    refused(&other, "malformed", &words)?;

    // Another client holds the monitor.
    let mut rival = BufReader::new(UnixStream::connect(source.qmp_path())?);
    rival.read_line(&mut String::new())?;
    let finished = programs.send(&bed, &source, NOBODY, &[])?.wait()?;
    let words = ["another client holds this QMP socket", "a second -qmp"];
    assert_refused(&finished, "guest", &words)?;
    drop(rival);
    before.assert_same(&source)?;

    // Another migration is under way: to somebody who does not read.
    let path = bed.dir().join("elsewhere");
    let elsewhere = UnixListener::bind(&path)?;
    source.execute(
        "migrate",
        json!({ "uri": format!("unix:{}", path.display()) }),
    )?;
    let finished = programs.send(&bed, &source, NOBODY, &[])?.wait()?;
    let words = [
        "QEMU has another migration",
        "wait for its end or cancel it",
    ];
    assert_refused(&finished, "guest", &words)?;
    source.execute("migrate_cancel", json!({}))?;
    drop(elsewhere);
    before.assert_same(&source)?;

    let target = machine.waiting().start("target")?;
    programs.migrate(&bed, &source, &target, &["--verify"])?;
    target.wait_ticks(3)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log(), target.log()])?;

    // It has left: it cannot leave again.
    let finished = programs.send(&bed, &source, NOBODY, &[])?.wait()?;
    // Nobody says that it is here.
    assert_eq!(finished.code(), 4, "{finished:?}");
    let report = finished.json()?;
    assert_eq!(report["vm_location"], "unknown", "{report}");
    for words in ["\"postmigrate\"", "it has left already", "pagelift settle"] {
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
    }
    drop((source, target));
    bed.finish();
    Ok(())
}

#[test]
fn a_monitor_that_is_not_there() -> Result<()> {
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let missing = bed.dir().join("missing");
    for (program, rest) in [
        ("pagelift-send", ["--to", NOBODY]),
        ("pagelift-receive", ["--listen", "tcp://127.0.0.1:0"]),
    ] {
        let mut command = programs.command(&bed, program);
        command.arg("--qmp").arg(&missing).args(rest).arg("--json");
        let finished = pagelift_tests::Run::start(&bed, program, command)?.wait()?;
        let missing = missing.display().to_string();
        let words = [missing.as_str(), "No such file", "-qmp unix:"];
        assert_refused(&finished, "guest", &words)?;
    }
    bed.finish();
    Ok(())
}

/// A target that is a running guest, or whose address is not this machine's.
#[test]
fn targets_that_cannot_wait() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let running = programs
        .wrap(Qemu::builder(&bed, &images).workload(&small()))
        .start("running")?;
    running.wait_ticks(1)?;
    let before = Snapshot::of(&running)?;
    let receive = |listen: &str| -> Result<Finished> {
        let mut command = programs.command(&bed, "pagelift-receive");
        command.arg("--qmp").arg(running.qmp_path());
        command.args(["--listen", listen, "--json"]);
        pagelift_tests::Run::start(&bed, "receive", command)?.wait()
    };
    let words = ["\"running\", not waiting for a guest", "-incoming defer"];
    assert_refused(&receive("tcp://127.0.0.1:0")?, "guest", &words)?;
    // Of a block that is no machine's (RFC 5737).
    let words = ["cannot listen", "tcp://192.0.2.1:0"];
    assert_refused(&receive("tcp://192.0.2.1:0")?, "link", &words)?;
    before.assert_same(&running)?;
    running.wait_ticks(2)?;
    assert!(running.wait_event("STOP", PATIENCE / 1000).is_err());
    drop(running);
    bed.finish();
    Ok(())
}
