//! The demo, with one of its two processes killed.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagelift_tests::run::Run;
use pagelift_tests::{Bed, PATIENCE, process, program};
use rustix::process::Signal;

/// Starts a demo that takes seconds; also gives its second process, once data flows.
fn start(bed: &Bed) -> Result<(Run, u32)> {
    let mut command = bed.command(program("pagelift")?);
    command.args(["demo", "--json", "--memory", "256MiB", "--link", "40MiB/s"]);
    let mut demo = Run::start(bed, "demo", command)?;
    demo.wait_stderr(|text| text.contains("round 1").then_some(()))?;
    let family = process::tree(demo.pid());
    ensure!(family.len() == 2, "two processes: {family:?}");
    Ok((demo, family[1]))
}

#[test]
fn a_demo_whose_target_is_killed_keeps_its_guest() -> Result<()> {
    let bed = Bed::new()?;
    let (demo, target) = start(&bed)?;
    process::kill(target);
    let demo = demo.wait()?;
    ensure!(demo.status.code() == Some(1), "{demo:?}");
    let report = demo.json()?;
    ensure!(report["vm_location"] == "source", "{demo:?}");
    ensure!(report["error"]["code"] == "link", "{demo:?}");
    bed.finish();
    Ok(())
}

#[test]
fn a_demo_that_is_killed_leaves_no_target() -> Result<()> {
    let bed = Bed::new()?;
    let (demo, target) = start(&bed)?;
    demo.signal(Signal::KILL)?;
    ensure!(demo.wait()?.status.code().is_none());
    let deadline = Instant::now() + PATIENCE;
    while process::is_alive(target) && Instant::now() < deadline {
        sleep(Duration::from_millis(5));
    }
    ensure!(!process::is_alive(target), "the target goes on alone");
    bed.finish();
    Ok(())
}

#[test]
fn a_demo_that_is_interrupted_ends_both() -> Result<()> {
    let bed = Bed::new()?;
    let (demo, _) = start(&bed)?;
    demo.signal(Signal::INT)?;
    let demo = demo.wait()?;
    ensure!(demo.status.code() == Some(3), "{demo:?}");
    ensure!(demo.json()?["outcome"] == "cancelled", "{demo:?}");
    bed.finish();
    Ok(())
}
