//! What the programs ask of the kernel for themselves: no cores, and limits that are errors.

use std::fs;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pagelift_tests::{Bed, PATIENCE, Programs, Qemu, Run, guest_images, require};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

/// A core would hold pages of the guest.
#[test]
fn a_crash_leaves_no_core() -> Result<()> {
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    // A monitor that does not greet keeps both programs waiting.
    let monitor = bed.dir().join("silent");
    let _listener = UnixListener::bind(&monitor)?;
    for (program, way) in [
        ("pagelift-receive", ["--listen", "tcp://127.0.0.1:0"]),
        ("pagelift-send", ["--to", "tcp://127.0.0.1:1"]),
    ] {
        let mut command = programs.command(&bed, program);
        command
            .arg("--qmp")
            .arg(&monitor)
            .args(way)
            .current_dir(bed.dir());
        let run = Run::start(&bed, program, command)?;
        let limits = format!("/proc/{}/limits", run.pid());
        let deadline = Instant::now() + PATIENCE;
        // One byte: neither a file nor a handler behind a pipe gets a core of that, core(5).
        while !fs::read_to_string(&limits)?
            .lines()
            .any(|line| line.starts_with("Max core file size") && line.contains(" 1 "))
        {
            ensure!(Instant::now() < deadline, "{program} limits no core");
            sleep(Duration::from_millis(5));
        }
        run.signal(Signal::ABORT)?;
        let finished = run.wait()?;
        assert_eq!(finished.status.signal(), Some(Signal::ABORT.as_raw()));
        assert!(!finished.status.core_dumped(), "{program}");
    }
    bed.finish();
    Ok(())
}

/// The receiver may write less to a file than the guest has memory.
#[test]
fn a_file_limit_is_the_reason_on_both_sides() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let (source, target) = programs.wrap(Qemu::builder(&bed, &images)).start_pair()?;
    source.wait_ready()?;
    let (receive, uri) = programs.receive(&bed, &target)?;
    let pid = i32::try_from(receive.pid()).ok().and_then(Pid::from_raw);
    let limit = Rlimit {
        current: Some(1 << 20),
        maximum: Some(1 << 20),
    };
    prlimit(Some(pid.context("a process id")?), Resource::Fsize, limit)?;
    let sent = programs.send(&bed, &source, &uri, &[])?.wait()?;
    let received = receive.wait()?;
    for finished in [&sent, &received] {
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert!(finished.stderr.contains("File too large"), "{finished:?}");
    }
    assert_eq!(source.run_state()?, "running");
    drop((source, target));
    bed.finish();
    Ok(())
}

/// A receiver that has no descriptor left when QEMU is to load the guest's devices.
#[test]
fn a_lack_of_descriptors_is_the_reason_on_both_sides() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let (source, target) = programs.wrap(Qemu::builder(&bed, &images)).start_pair()?;
    source.wait_ready()?;
    let (mut receive, uri) = programs.receive(&bed, &target)?;
    let send = programs.send(&bed, &source, &uri, &["--bandwidth", "16MiB/s"])?;
    // All connections are there once pages have come.
    receive.wait_stderr(|text| {
        let lines = text.lines().filter(|line| line.starts_with("round "));
        let mut received = lines.filter(|line| !line.contains("received 0 B"));
        received.next().map(drop)
    })?;
    let pid = i32::try_from(receive.pid()).ok().and_then(Pid::from_raw);
    let free = (0..)
        .find(|number: &u64| !fs::exists(format!("/proc/{}/fd/{number}", receive.pid())).unwrap())
        .context("a number")?;
    let limit = Rlimit {
        current: Some(free),
        maximum: Some(free),
    };
    prlimit(Some(pid.context("a process id")?), Resource::Nofile, limit)?;
    let sent = send.wait()?;
    let received = receive.wait()?;
    for finished in [&sent, &received] {
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert!(
            finished.stderr.contains("Too many open files"),
            "{finished:?}"
        );
    }
    assert_eq!(source.run_state()?, "running");
    assert_eq!(
        target.run_state()?,
        "inmigrate",
        "it can take another guest"
    );
    drop((source, target));
    bed.finish();
    Ok(())
}
