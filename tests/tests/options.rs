//! Command lines that make no sense, and outputs that nobody reads: what is said names the thing,
//! the reason and the way out, and nothing is begun.

use std::fs::OpenOptions;

use anyhow::Result;
use pagelift_tests::contract::check_failed;
use pagelift_tests::{Bed, Finished, Programs, Run};

fn run(bed: &Bed, program: &str, words: &[&str]) -> Result<Finished> {
    let mut command = Programs::built()?.command(bed, program);
    command.args(words);
    Run::start(bed, program, command)?.wait()
}

/// A bad value of each option that has a syntax of its own, and the way out.
#[test]
fn a_bad_value_names_the_option_and_the_way_out() -> Result<()> {
    let bed = Bed::new()?;
    let well = ["--qmp=none", "--to=tcp://127.0.0.1:1"];
    for (option, way_out) in [
        (
            "--at-deadline=wait",
            "[possible values: cancel, stop-trying, force]",
        ),
        ("--bandwidth=0MiB/s", "leave the option out"),
        ("--bandwidth=5", "write it as 100MiB/s or 1Gbit/s"),
        ("--channels=0", "write a number from 1 to 64, or auto"),
        ("--compress=lz4:1", "write lz4 alone, or zstd:LEVEL"),
        (
            "--compress=zip",
            "write auto, none, lz4, zstd, zstd:LEVEL or xbzrle",
        ),
        ("--compress=zstd:0", "write zstd:-50 (fastest)"),
        ("--cpu-limit=0", "write 50% for half of one"),
        ("--deadline=never", "or write none"),
        ("--delta-cache=much", "write it as 512MiB or 1GiB"),
        (
            "--downtime=2s..1s",
            "the second time must be the longer one",
        ),
        ("--downtime=99999999h", "write it as 50ms, 2s or 10m"),
        ("--max-throttle=100", "write a number from 0 to 99"),
        (
            "--policy=best",
            "[possible values: predictive, classic, none]",
        ),
        ("--dedup=yes", "write auto, on or off"),
        ("--throttle-by=qemu", "[possible values: agent, cgroup]"),
        ("--to=udp://1", "use tcp://HOST:PORT"),
    ] {
        let words: Vec<&str> = match option.starts_with("--to") {
            true => vec![well[0], option],
            false => [&well[..], &[option]].concat(),
        };
        let finished = run(&bed, "pagelift-send", &words)?;
        assert_eq!(finished.code(), 2, "{option}: {finished:?}");
        let (name, value) = option.split_once('=').expect("NAME=VALUE");
        let invalid = format!("error: invalid value '{value}' for '{name} <");
        for part in [invalid.as_str(), way_out] {
            assert!(finished.stderr.contains(part), "{option}: {finished:?}");
        }
        assert_eq!(finished.stdout, "", "{option}");
    }
    bed.finish();
    Ok(())
}

/// What a migration needs beside the guest cannot be had.
#[test]
fn what_is_not_begun_is_reported_like_what_failed() -> Result<()> {
    let bed = Bed::new()?;
    let send = [
        "--qmp=none",
        "--to=tcp://127.0.0.1:1",
        "--json",
        "--control=/dev/null/socket",
    ];
    let finished = run(&bed, "pagelift-send", &send)?;
    assert_eq!(finished.code(), 1, "{finished:?}");
    let report = finished.json()?;
    let (code, message) = check_failed(&report, "failed");
    assert_eq!(code, "not-begun");
    assert!(message.starts_with("cannot make the control socket /dev/null/socket: "));
    assert!(message.ends_with("name a path in a folder that exists and is yours to write"));
    assert!(finished.stderr.contains(message), "{finished:?}");
    assert!(finished.stderr.ends_with("\nthe guest is on the source\n"));

    let replay = run(&bed, "pagelift", &["replay", "/dev/null"])?;
    assert_eq!(replay.code(), 1, "{replay:?}");
    assert!(replay.stderr.contains("the first line must be"));
    let launch = run(&bed, "pagelift", &["run", "--", "no-such-qemu"])?;
    assert_eq!(launch.code(), 1, "{launch:?}");
    let said = "error: cannot execute no-such-qemu: No such file or directory (os error 2); \
                is it installed, and in PATH?\n";
    assert_eq!(launch.stderr, said);
    bed.finish();
    Ok(())
}

/// A guest moves although its report, and all that is said meanwhile, cannot be written.
#[test]
fn outputs_that_are_full_do_not_end_a_migration() -> Result<()> {
    let bed = Bed::new()?;
    for words in [
        &["demo", "--memory=16MiB"][..],
        &["demo", "--memory=16MiB", "--json"],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full")?;
        let mut command = Programs::built()?.command(&bed, "pagelift");
        command.args(words).stdout(full.try_clone()?).stderr(full);
        let status = command.status()?;
        assert_eq!(status.code(), Some(0), "{words:?}");
    }
    bed.finish();
    Ok(())
}
