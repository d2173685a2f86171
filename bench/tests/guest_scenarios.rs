//! `guest-scenarios` with guests so small that it takes seconds: that both engines are measured,
//! that guests which cannot move go on, and that nothing is left behind.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pagelift_tests::{Bed, NetPair, PATIENCE, Skip, guest_images, process, require};
use rustix::process::Signal;
use serde_json::Value;

/// Bytes that no codec can shrink.
const FILL: u64 = 16 << 20;

/// Small guests, one for each of both engines.
fn small(bed: &Bed) -> Command {
    let mut command = bed.command(env!("CARGO_BIN_EXE_guest-scenarios"));
    // Where its own beds are, below this one.
    command
        .env("TMPDIR", bed.dir())
        .args(["--methods", "pagelift,qemu-auto-converge-xbzrle"])
        .args(["--memory", "128MiB", "--fill", "16MiB"])
        .stdin(Stdio::null());
    command
}

/// Whether this machine can do it at all.
fn able() -> Result<(), Skip> {
    guest_images()?;
    let bed = Bed::new().map_err(|error| Skip(format!("{error:#}")))?;
    NetPair::new(&bed, Some(1_000_000_000)).map(drop)
}

fn moves(output: &Output) -> Result<Vec<Value>> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    let mut result: Value = serde_json::from_slice(&output.stdout)?;
    match result["moves"].take() {
        Value::Array(moves) => Ok(moves),
        other => anyhow::bail!("no moves: {other}"),
    }
}

#[test]
fn both_engines_move_a_small_guest() -> Result<()> {
    require!(able());
    let bed = Bed::new()?;
    let output = small(&bed)
        .args(["--scenarios", "words", "--rate", "2MiB/s", "--json"])
        .args(["--downtime-limit", "2000", "--limit", "100"])
        .output()?;
    let moves = moves(&output)?;
    assert_eq!(moves.len(), 2);
    for moved in &moves {
        assert_eq!(moved["faults"], serde_json::json!([]), "{moved}");
        let number = |of: &Value, key: &str| {
            let number = of[key].as_f64();
            number.with_context(|| format!("{key}: {moved}"))
        };
        let (total_s, blackout_ms) = (number(moved, "total_s")?, number(moved, "blackout_ms")?);
        assert!(blackout_ms > 0.0 && blackout_ms / 1e3 < total_s, "{moved}");
        let ours = moved["method"]["name"] == "pagelift";
        assert_eq!(moved["one_pass_s"].is_number(), ours, "{moved}");
        assert!(number(moved, "wire_bytes")? >= FILL as f64, "{moved}");
        assert!(number(&moved["work"], "pages_per_s")? > 0.0, "{moved}");
        number(&moved["work"], "lost_s")?;
        number(moved, "rounds")?;
    }
    bed.finish();
    Ok(())
}

#[test]
fn a_guest_that_cannot_move_goes_on() -> Result<()> {
    require!(able());
    let bed = Bed::new()?;
    let output = small(&bed)
        .args(["--scenarios", "guestperf", "--link", "8Mbit/s"])
        .args(["--downtime-limit", "1", "--limit", "2"])
        .output()?;
    let table = String::from_utf8(output.stdout)?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{table}");
    for method in ["pagelift", "qemu-auto-converge-xbzrle"] {
        let row = format!("| {method} | not in 2 | - | ");
        let row = table.lines().find(|line| line.starts_with(&row));
        let row = row.with_context(|| format!("no row of {method}: {table}"))?;
        assert!(row.ends_with(" right |"), "{row}");
    }
    bed.finish();
    Ok(())
}

#[test]
fn a_signal_leaves_nothing_behind() -> Result<()> {
    require!(able());
    let bed = Bed::new()?;
    let mut program = small(&bed)
        .args(["--scenarios", "sparse"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // All that is made carries the id of the process that does the work, a child of the program.
    let deadline = Instant::now() + PATIENCE;
    let prefix = loop {
        let ended = program.try_wait()?;
        ensure!(
            ended.is_none() && Instant::now() < deadline,
            "no QEMU: {ended:?}"
        );
        if let Some(worker) = process::tree(program.id()).get(1) {
            let prefix = format!("plt-{worker}-");
            // Both QEMUs, or what starts them.
            if process::marked(&format!("{prefix}0")).len() >= 2 {
                break prefix;
            }
        }
        sleep(Duration::from_millis(10));
    };
    process::signal(program.id(), Signal::TERM);
    assert_eq!(program.wait()?.code(), Some(128 + 15));
    assert_eq!(process::marked(&format!("{prefix}0")), [0; 0]);
    for place in [Path::new("/dev/shm"), Path::new("/run/netns"), bed.dir()] {
        for entry in std::fs::read_dir(place)? {
            let name = entry?.file_name();
            let ours = name.to_string_lossy().starts_with(&prefix);
            assert!(!ours, "left in {}: {}", place.display(), name.display());
        }
    }
    bed.finish();
    Ok(())
}
