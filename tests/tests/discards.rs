//! Pages that QEMU discards on the way: they arrive as zeros, whatever was sent of them before.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pagelift_tests::{Bed, Ctl, PATIENCE, Programs, Qemu, Ticks, Workload, guest_images, require};
use rustix::fs::{FallocateFlags, fallocate};
use serde_json::json;

const MIB: u64 = 1 << 20;

/// Where in the guest's RAM there is something, and what of it is discarded.
const CONTENT: std::ops::Range<u64> = 16 * MIB..64 * MIB;
const DISCARDED: std::ops::Range<u64> = 18 * MIB..20 * MIB;

const BALLOON: &str = "virtio-balloon-pci,id=b0,free-page-reporting=on";

/// The one file in a folder.
fn ram_file(folder: &Path) -> Result<std::fs::File> {
    let file = std::fs::read_dir(folder)?.next().context("a RAM file")??;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file.path());
    Ok(file?)
}

/// Bytes that nothing packs.
fn noise(bytes: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut all = Vec::new();
    while (all.len() as u64) < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all
}

/// A guest that does not run yet, so that its RAM is the test's: what the balloon does for a guest,
/// the test does here, in a part that has been sent.
#[test]
fn a_page_that_is_given_back_after_it_was_sent_arrives_as_zeros() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        ..Workload::default()
    };
    let dirs = [bed.shm_dir("home")?, bed.shm_dir("away")?];
    let machine = Qemu::builder(&bed, &images).workload(&workload);
    let machine = machine.arg("-device").arg(BALLOON).arg("-S");
    let source = programs.wrap_keeping(machine.clone(), dirs[0].path());
    let source = source.start("source")?;
    let target = programs.wrap_keeping(machine, dirs[1].path());
    let target = target.waiting().start("target")?;
    let here = ram_file(dirs[0].path())?;
    let content = noise(CONTENT.end - CONTENT.start);
    here.write_all_at(&content, CONTENT.start)?;

    let (receive, uri) = programs.receive(&bed, &target)?;
    let options = ["--bandwidth=80Mbit/s", "--verify"];
    let mut send = programs.send(&bed, &source, &uri, &options)?;
    send.wait_stderr(|text| text.contains("round 1 ").then_some(()))?;
    let there = ram_file(dirs[1].path())?;
    let mut arrived = [0; 4096];
    let deadline = Instant::now() + Duration::from_secs(60);
    while arrived == [0; 4096] {
        assert!(Instant::now() < deadline, "it is not sent");
        std::thread::sleep(Duration::from_millis(10));
        there.read_exact_at(&mut arrived, DISCARDED.end - 4096)?;
    }
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(
        &here,
        punch,
        DISCARDED.start,
        DISCARDED.end - DISCARDED.start,
    )?;
    let sent = send.wait()?;
    assert_eq!(sent.code(), 0, "{sent:?}");
    assert_eq!(receive.wait()?.code(), 0);

    let mut wanted = content;
    let part = |at: u64| (at - CONTENT.start) as usize;
    wanted[part(DISCARDED.start)..part(DISCARDED.end)].fill(0);
    let mut found = vec![0; wanted.len()];
    there.read_exact_at(&mut found, CONTENT.start)?;
    assert!(found == wanted, "RAM differs");
    drop((source, target, dirs));
    bed.finish();
    Ok(())
}

/// The same machine with a guest that runs, with and without reports of free pages.
#[test]
fn a_guest_with_a_balloon_moves() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 16 * MIB,
        rate_bytes_per_s: 4 * MIB,
        ..Workload::default()
    };
    let append = format!("{} virtio junk", workload.kernel_args());
    for (reporting, names) in [("on", ["a", "b"]), ("off", ["c", "d"])] {
        let device = format!("virtio-balloon-pci,id=b0,free-page-reporting={reporting}");
        let machine = Qemu::builder(&bed, &images).workload(&workload);
        let machine = programs
            .wrap(machine)
            .args(["-append", &append, "-device", &device]);
        let source = machine.clone().start(names[0])?;
        let target = machine.waiting().start(names[1])?;
        source.wait_ticks(2)?;
        programs.migrate(&bed, &source, &target, &[])?;
        target.wait_ticks(2)?;
        assert_eq!(target.verify()?.bad, 0);
        Ticks::check(&workload, &[source.log(), target.log()])?;
    }
    bed.finish();
    Ok(())
}

/// Waits until `wanted` holds.
fn wait_until(what: &str, mut wanted: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !wanted()? {
        ensure!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Bytes that a file holds.
fn held_bytes(file: &std::fs::File) -> Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// A balloon that nobody uses before the move: free pages of its guest hold something, and have been
/// sent when it takes them. The guest clears no page that it gives to the balloon.
#[test]
fn what_a_balloon_takes_in_mid_move_is_given_back_on_the_target_too() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 16 * MIB,
        // More than the link carries at first, so that the move does not end before it is to.
        rate_bytes_per_s: 32 * MIB,
        ..Workload::default()
    };
    let dirs = [bed.shm_dir("home")?, bed.shm_dir("away")?];
    let append = format!("{} virtio junk init_on_alloc=0 ", workload.kernel_args());
    let machine = Qemu::builder(&bed, &images).workload(&workload);
    let machine = machine.args(["-append", &append, "-device", "virtio-balloon-pci,id=b0"]);
    let source = programs.wrap_keeping(machine.clone(), dirs[0].path());
    let source = source.start("source")?;
    let target = programs.wrap_keeping(machine, dirs[1].path());
    let target = target.waiting().start("target")?;
    source.wait_ready()?;
    let [here, there] = [ram_file(dirs[0].path())?, ram_file(dirs[1].path())?];

    let ctl = Ctl::new(&bed, bed.dir().join("control"));
    let control = format!("--control={}", ctl.socket().display());
    let (receive, uri) = programs.receive(&bed, &target)?;
    let slow = ["--bandwidth=80Mbit/s", "--compress=none", "--policy=none"];
    let options = [&slow[..], &["--verify", &control]].concat();
    let send = programs.send(&bed, &source, &uri, &options)?;
    wait_until("it is sent", || Ok(held_bytes(&there)? > 72 * MIB))?;
    let held = held_bytes(&here)?;
    source.execute("balloon", json!({ "value": 112 * MIB }))?;
    wait_until("it is inflated", || {
        let balloon = source.execute("query-balloon", json!({}))?;
        Ok(balloon["actual"] == 112 * MIB)
    })?;
    ctl.set(&["bandwidth=none", "downtime=2s"])?;
    let sent = send.wait()?;
    assert_eq!(sent.code(), 0, "{sent:?}");
    assert_eq!(receive.wait()?.code(), 0);
    let [left, arrived] = [held_bytes(&here)?, held_bytes(&there)?];
    assert!(left < held - 16 * MIB, "{left} bytes are left of {held}");
    assert!(arrived < left + 8 * MIB, "{arrived} bytes for {left}");
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log(), target.log()])?;
    drop((source, target, dirs));
    bed.finish();
    Ok(())
}
