//! A target that refuses guests which do not fit, lets strangers go, and still takes the one
//! that does fit.

use std::io::Write;
use std::net::TcpStream;

use anyhow::{Context, Result};
use pagelift_tests::contract::check_failed;
use pagelift_tests::{Bed, Programs, Qemu, Run, Snapshot, Ticks, Workload, guest_images, require};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;

/// Guests that differ from the target's, and what is to be said of them.
const MISFITS: [(&str, &[&str], &[&str]); 4] = [
    (
        "smaller",
        &["-m", "128M"],
        &["memory layout", "start the target with the same memory"],
    ),
    (
        "q35",
        &["-machine", "q35"],
        &["machine type", "pc-q35", "pc-i440fx"],
    ),
    (
        "with-vga",
        &["-device", "VGA"],
        &[
            "device RAM blocks (bytes): only the source has",
            "vga.vram",
            "device 02.0: source VGA, target none",
        ],
    ),
    (
        "other-cpu",
        &["-cpu", "qemu64,-svm,+avx2", "-smp", "1,maxcpus=2"],
        &[
            "CPU flags: only the source has avx2",
            "only the target has svm",
            "-smp, maxcpus: source 2, target 1",
            "--allow-guest-abi-change",
        ],
    ),
];

/// Says something that is no migration to a port, and hangs up or does not.
fn stranger(uri: &str, words: &[u8]) -> Result<TcpStream> {
    let address = uri.strip_prefix("tcp://").context("a TCP URI")?;
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(words)?;
    Ok(stream)
}

#[test]
fn a_target_refuses_misfits_and_then_takes_its_guest() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    // Only one who is known is told how the guests differ, and ends the wait.
    let programs = Programs::built()?.with_token();
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 16 * MIB,
        rate_bytes_per_s: 4 * MIB,
        ..Workload::default()
    };
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&workload));
    let waiting = machine.clone().waiting();
    let target = waiting.start("target")?;
    let target_before = Snapshot::of(&target)?;

    for (name, args, words) in MISFITS {
        let misfit = args.iter().fold(machine.clone(), |m, arg| m.arg(arg));
        let misfit = misfit.start(name)?;
        misfit.wait_ticks(1)?;
        let before = Snapshot::of(&misfit)?;
        let (receive, uri) = programs.receive(&bed, &target)?;
        let sent = programs.send(&bed, &misfit, &uri, &[])?.wait()?;
        for finished in [sent, receive.wait()?] {
            assert_eq!(finished.code(), 1, "{name}: {finished:?}");
            let report = finished.json()?;
            let (code, message) = check_failed(&report, "failed");
            assert_eq!(code, "refused", "{name}: {message}");
            for word in words {
                assert!(message.contains(word), "{name}: no {word:?} in {message}");
            }
        }
        before.assert_same(&misfit)?;
        target_before.assert_same(&target)?;
        misfit.wait_ticks(2)?;
    }

    // Nobody came: the target is let go again.
    let (receive, _) = programs.receive(&bed, &target)?;
    receive.signal(Signal::INT)?;
    let cancelled = receive.wait()?;
    assert_eq!(cancelled.code(), 3, "{cancelled:?}");
    check_failed(&cancelled.json()?, "cancelled");
    target_before.assert_same(&target)?;

    // The one that fits, after strangers who knock at the same door.
    let source = machine.start("source")?;
    source.wait_ticks(2)?;
    let (receive, uri) = programs.receive(&bed, &target)?;
    // More than a process may have descriptors, commonly 1024.
    for _ in 0..1200 {
        drop(stranger(&uri, b"x")?);
    }
    let strangers = [
        stranger(&uri, b"GET / HTTP/1.1\r\n\r\n")?,
        stranger(&uri, b"")?,
    ];
    let sent = programs.send(&bed, &source, &uri, &["--verify"])?.wait()?;
    assert_eq!(sent.code(), 0, "{sent:?}; {}", receive.stderr());
    drop(strangers);
    let received = receive.wait()?;
    assert_eq!(received.code(), 0, "{received:?}");
    assert_eq!(target.run_state()?, "running");
    target.wait_ticks(3)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log(), target.log()])?;
    drop((source, target));
    bed.finish();
    Ok(())
}

/// Command lines that make no sense: the program, the options, and a word of the reason.
const SENSELESS: [(&str, &[&str], &str); 13] = [
    ("pagelift", &[], "Usage"),
    ("pagelift", &["no-such-command"], "no-such-command"),
    ("pagelift", &["run"], "<QEMU>"),
    ("pagelift-send", &[], "--qmp"),
    ("pagelift-send", &["--qmp", "x"], "--to"),
    (
        "pagelift-send",
        &["--qmp", "x", "--to", "127.0.0.1:1"],
        "tcp://HOST:PORT",
    ),
    (
        "pagelift-send",
        &["--qmp", "x", "--to", "http://h:1"],
        "http:// is not supported",
    ),
    (
        "pagelift-send",
        &["--qmp", "x", "--to", "tcp://h:1", "--bandwidth", "0MiB/s"],
        "never end",
    ),
    (
        "pagelift-send",
        &["--qmp", "x", "--to", "tcp://h:1", "--downtime", "5"],
        "50ms",
    ),
    (
        "pagelift-send",
        &["--qmp", "x", "--to", "tcp://h:1", "--channels", "0"],
        "or auto",
    ),
    ("pagelift-receive", &["--qmp", "x"], "--listen"),
    (
        "pagelift-receive",
        &["--qmp", "x", "--listen", "tcp://h"],
        "tcp://HOST:PORT",
    ),
    (
        "pagelift-receive",
        &["--qmp", "x", "--listen", "tcp://h:1", "--verify"],
        "--verify",
    ),
];

#[test]
fn senseless_command_lines_exit_with_2() -> Result<()> {
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    for (program, args, word) in SENSELESS {
        let mut command = programs.command(&bed, program);
        command.args(args);
        let finished = Run::start(&bed, program, command)?.wait()?;
        assert_eq!(finished.code(), 2, "{program} {args:?}: {finished:?}");
        assert!(
            finished.stderr.contains(word),
            "{program} {args:?}: {}",
            finished.stderr
        );
        assert_eq!(finished.stdout, "", "{program} {args:?}");
    }
    bed.finish();
    Ok(())
}
