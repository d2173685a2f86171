//! `pagelift demo` when the guest does not move: given up, cancelled, killed, or not started.

use anyhow::Result;
use pagelift_tests::contract::check_failed;
use pagelift_tests::{Bed, Programs, Run};
use rustix::process::Signal;

/// A migration that takes minutes, so that something can happen in the middle of it.
const LONG: [&str; 4] = ["--memory=64MiB", "--link=2Mbit/s", "--timeout=5m", "--json"];

fn start(bed: &Bed, options: &[&str]) -> Result<Run> {
    let mut command = Programs::built()?.command(bed, "pagelift");
    command.arg("demo").args(options);
    Run::start(bed, "demo", command)
}

/// Starts a long one and waits until pages are on their way.
fn under_way(bed: &Bed) -> Result<Run> {
    let mut run = start(bed, &LONG)?;
    run.wait_stderr(|text| text.contains("round 1 ").then_some(()))?;
    Ok(run)
}

/// Writes whole pages faster than the link can carry them, and must not be throttled: no round
/// is shorter than the one before, and no delta would help.
#[test]
fn a_guest_that_cannot_converge_stays_and_is_told_why() -> Result<()> {
    let bed = Bed::new()?;
    let never = [
        "--memory=16MiB",
        "--fill=1",
        "--dirty-rate=400MiB/s",
        "--write-size=4096",
        "--link=200Mbit/s",
        "--policy=none",
        "--json",
    ];
    let finished = start(&bed, &never)?.wait()?;
    assert_eq!(finished.code(), 1, "{finished:?}");
    let report = finished.json()?;
    let (code, message) = check_failed(&report, "failed");
    assert_eq!(code, "not-converging");
    for words in [
        "does not converge",
        "are left to send after",
        "the guest writes",
        "the link carries",
        "where 50 ms are allowed",
        "allow a longer downtime",
    ] {
        assert!(message.contains(words), "no {words:?} in: {message}");
    }
    assert_eq!(report["error"]["retryable"], true);
    bed.finish();
    Ok(())
}

#[test]
fn a_time_limit_ends_it() -> Result<()> {
    let bed = Bed::new()?;
    // Messages must get through between the pages of many channels, or the other side would
    // take this one for dead before the time is over.
    let options = [LONG[0], LONG[1], LONG[3], "--timeout=8s", "--channels=64"];
    let finished = start(&bed, &options)?.wait()?;
    assert_eq!(finished.code(), 1, "{finished:?}");
    let report = finished.json()?;
    let (code, message) = check_failed(&report, "failed");
    assert_eq!(code, "not-converging");
    assert!(
        message.contains("the time limit of 8 s is over"),
        "{message}"
    );
    bed.finish();
    Ok(())
}

#[test]
fn an_interrupt_cancels_it() -> Result<()> {
    for signal in [Signal::INT, Signal::TERM] {
        let bed = Bed::new()?;
        let run = under_way(&bed)?;
        run.signal(signal)?;
        let finished = run.wait()?;
        assert_eq!(finished.code(), 3, "{finished:?}");
        let report = finished.json()?;
        let (code, _) = check_failed(&report, "cancelled");
        assert_eq!(code, "cancelled");
        bed.finish();
    }
    Ok(())
}

/// The second process must not outlive the first, nor its memory.
#[test]
fn killed_it_leaves_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let run = under_way(&bed)?;
    assert_eq!(pagelift_tests::process::tree(run.pid()).len(), 2);
    run.signal(Signal::KILL)?;
    let finished = run.wait()?;
    assert_eq!(finished.status.code(), None);
    assert_eq!(finished.stdout, "");
    bed.finish();
    Ok(())
}

/// The source must notice a target that dies, and keep its guest.
#[test]
fn a_target_that_is_killed_costs_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let run = under_way(&bed)?;
    let [_, target] = pagelift_tests::process::tree(run.pid())[..] else {
        panic!("a demo is two processes");
    };
    pagelift_tests::process::kill(target);
    let finished = run.wait()?;
    assert_eq!(finished.code(), 1, "{finished:?}");
    check_failed(&finished.json()?, "failed");
    bed.finish();
    Ok(())
}

/// Options that make no sense, and a word of the reason.
const SENSELESS: [(&str, &str); 19] = [
    ("--channels=0", "or auto"),
    ("--channels=1000", "or auto"),
    ("--compress=gzip", "not a way to compress"),
    ("--compress=lz4:3", "lz4 has no levels"),
    ("--compress=zstd:20", "zstd:19 (smallest)"),
    ("--cpu-limit=0%", "no share of a processor"),
    ("--cpu-limit=half", "150% for one and a half"),
    ("--dirty-rate=100", "100MiB/s"),
    ("--downtime=50", "50ms"),
    ("--fill=1.5", "--fill"),
    ("--fill=NaN", "--fill"),
    ("--link=0Gbit/s", "never end"),
    ("--memory=1QiB", "1QiB"),
    ("--memory=5000", "no multiple of 4096"),
    ("--memory=4096", "less than a page for each vCPU"),
    ("--no-such-option", "--no-such-option"),
    ("--pattern=random", "sequential"),
    ("--vcpus=0", "1..=64"),
    ("--write-size=7", "multiple of 8"),
];

#[test]
fn senseless_options_exit_with_2() -> Result<()> {
    let bed = Bed::new()?;
    for (option, word) in SENSELESS {
        let finished = start(&bed, &[option])?.wait()?;
        assert_eq!(finished.code(), 2, "{option}: {finished:?}");
        assert!(finished.stderr.contains(word), "{option}: {finished:?}");
        assert_eq!(finished.stdout, "", "{option}");
    }
    bed.finish();
    Ok(())
}
