//! XBZRLE with a real QEMU at the other end, in both directions.
//!
//! A QEMU migrates a guest that writes all the while, with XBZRLE on, into a file. Our decoder
//! must make of that file what the guest's memory is. Then the same stream, with our encoder's
//! deltas in place of QEMU's and of every page that was sent before, goes to another QEMU, whose
//! memory must be the same again.

#[path = "xbzrle_qemu/stream.rs"]
mod stream;

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagelift_tests::{Bed, PATIENCE, Qemu, Ticks, Workload, guest_images, require};
use serde_json::{Value, json};

/// Pages for which QEMU is to have looked for a delta before it may finish.
const WANTED_PAGES: u64 = 2000;

/// Waits until QEMU's account of its migration is as wanted.
fn until(qemu: &Qemu, done: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let info = qemu.execute("query-migrate", json!({}))?;
        if done(&info) {
            return Ok(info);
        }
        let over = matches!(info["status"].as_str(), Some("completed" | "failed"));
        ensure!(!over && Instant::now() < deadline, "not as wanted: {info}");
        sleep(Duration::from_millis(20));
    }
}

/// Pages that QEMU has compared with what its cache had.
fn compared(info: &Value) -> u64 {
    info["xbzrle-cache"]["pages"].as_u64().unwrap_or(0)
}

#[test]
fn what_qemu_writes_is_read_and_what_we_write_qemu_reads() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let workload = Workload {
        memory_mib: 128,
        fill_bytes: 16 << 20,
        rate_bytes_per_s: 20 << 20,
        ..Workload::default()
    };
    let ram_bytes = workload.memory_mib << 20;
    let machine = Qemu::builder(&bed, &images).workload(&workload);
    let source_ram = bed.shm_file("source", ram_bytes)?;
    let source = machine
        .clone()
        .ram_file(source_ram.path())
        .start("source")?;
    source.wait_ready()?;
    source.wait_ticks(2)?;

    source.execute(
        "migrate-set-capabilities",
        json!({ "capabilities": [{ "capability": "xbzrle", "state": true }] }),
    )?;
    source.execute(
        "migrate-set-parameters",
        // Room for every page; a rate and a limit with which it does not end by itself.
        json!({ "xbzrle-cache-size": 128 << 20, "max-bandwidth": 20 << 20, "downtime-limit": 1 }),
    )?;
    let written = bed.dir().join("written");
    let uri = |path: &std::path::Path| json!({ "uri": format!("file:{}", path.display()) });
    source.execute("migrate", uri(&written))?;
    until(&source, |info| compared(info) >= WANTED_PAGES)?;
    source.execute(
        "migrate-set-parameters",
        json!({ "downtime-limit": 10_000 }),
    )?;
    let info = until(&source, |info| info["status"] == "completed")?;

    let memory = stream::read(&fs::read(&written)?)?;
    // QEMU also counts pages that it found unchanged, and sends nothing for them.
    let counted = compared(&info);
    assert!((1..=counted).contains(&(memory.theirs as u64)), "{counted}");
    let expected = fs::read(source_ram.path())?;
    // No assert_eq: nobody wants to see 128 MiB.
    assert!(memory.block("ram0") == Some(&expected[..]), "our decoder");
    assert!(memory.ours >= memory.theirs / 2, "{} of ours", memory.ours);

    let rewritten = bed.dir().join("rewritten");
    fs::write(&rewritten, &memory.rewritten)?;
    let target_ram = bed.shm_file("target", ram_bytes)?;
    let target = machine
        .ram_file(target_ram.path())
        .arg("-S")
        .waiting()
        .start("target")?;
    target.execute("migrate-incoming", uri(&rewritten))?;
    until(&target, |info| info["status"] == "completed")?;
    assert!(fs::read(target_ram.path())? == expected, "our encoder");
    println!("{} deltas of QEMU, {} of ours", memory.theirs, memory.ours);

    // The guest goes on, and finds all its pages as they must be.
    target.execute("cont", json!({}))?;
    target.wait_ticks(2)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log(), target.log()])?;

    drop((source, target, source_ram, target_ram));
    bed.finish();
    Ok(())
}
