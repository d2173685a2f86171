//! Guests with a disk that fails on the way: they stay if that was asked for, and move as they are
//! otherwise.

use anyhow::{Context, Result};
use pagelift_tests::contract::check_failed;
use pagelift_tests::{
    Bed, Finished, Images, PATIENCE, Programs, Qemu, Workload, guest_images, process, require,
};
use serde_json::json;

const MIB: u64 = 1 << 20;

/// A disk whose sector 1000 cannot be read, and QEMU stops the guest that tries.
const BAD_DISK: [&str; 6] = [
    "-blockdev",
    "driver=null-co,node-name=nothing,size=67108864,read-zeroes=on",
    "-blockdev",
    "driver=blkdebug,node-name=bad,image=nothing,inject-error.0.event=none,\
     inject-error.0.iotype=read,inject-error.0.sector=1000,inject-error.0.once=off",
    "-device",
    "ide-hd,bus=ide.0,unit=0,drive=bad,id=disk0,rerror=stop,werror=stop",
];

/// Has the disk read its sector 1000: by its registers (ATA-4, READ SECTORS), from the monitor,
/// since the guest has no driver for it.
fn read_the_bad_sector(qemu: &Qemu) -> Result<()> {
    for (port, value) in [
        (6, 0xe0),
        (2, 1),
        (3, 1000 & 0xff),
        (4, 1000 >> 8),
        (5, 0),
        (7, 0x20),
    ] {
        let line = format!("o /b {} {value}", 0x1f0 + port);
        qemu.execute("human-monitor-command", json!({ "command-line": line }))?;
    }
    Ok(())
}

/// A guest with a bad disk, being sent slowly; the disk fails on the way. What both programs say,
/// and the two QEMUs.
fn disk_fails(bed: &Bed, images: &Images, options: &[&str]) -> Result<Failing> {
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 48 * MIB,
        rate_bytes_per_s: MIB,
        ..Workload::default()
    };
    let mut machine = programs.wrap(Qemu::builder(bed, images).workload(&workload));
    for word in BAD_DISK {
        machine = machine.arg(word);
    }
    let (source, target) = machine.start_pair()?;
    source.wait_ready()?;
    source.wait_ticks(2)?;
    let (receive, uri) = programs.receive(bed, &target)?;
    let options = [&["--bandwidth=80Mbit/s"], options].concat();
    let mut send = programs.send(bed, &source, &uri, &options)?;
    send.wait_stderr(|text| text.contains("round 1 ").then_some(()))?;
    read_the_bad_sector(&source)?;
    let event = source.wait_event("BLOCK_IO_ERROR", PATIENCE)?;
    assert_eq!(event["data"]["action"], "stop", "{event}");
    Ok(Failing {
        sent: send.wait()?,
        received: receive.wait()?,
        source,
        target,
    })
}

/// What became of a guest whose disk failed.
struct Failing {
    sent: Finished,
    received: Finished,
    source: Qemu,
    target: Qemu,
}

#[test]
fn a_guest_whose_disk_fails_stays_if_it_was_to() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let Failing {
        sent,
        received,
        source,
        target,
    } = disk_fails(&bed, &images, &["--abort-on-error"])?;
    assert_eq!(sent.code(), 1, "{sent:?}");
    let report = sent.json()?;
    let (code, message) = check_failed(&report, "failed");
    assert_eq!(code, "guest-stays");
    for words in [
        "failed a read (Input/output error)",
        "io-error",
        "send 'cont'",
    ] {
        assert!(message.contains(words), "no {words:?} in: {message}");
    }
    assert_eq!(received.code(), 1, "{received:?}");
    assert!(received.stderr.contains("failed a read"), "{received:?}");
    assert_eq!(source.run_state()?, "io-error", "as QEMU left it");
    assert!(!process::is_tracked(source.qemu_pid()?)?);
    // Nor does it leave like that, with or without the flag.
    let again = Programs::built()?.send(&bed, &source, "tcp://127.0.0.1:9", &[])?;
    let again = again.wait()?;
    assert_eq!(again.code(), 1, "{again:?}");
    assert!(again.stderr.contains("bring it to 'running'"), "{again:?}");
    drop((source, target));
    bed.finish();
    Ok(())
}

#[test]
fn a_guest_whose_disk_fails_moves_as_it_is_otherwise() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let failing = disk_fails(&bed, &images, &[])?;
    assert_eq!(failing.sent.code(), 0, "{:?}", failing.sent);
    assert_eq!(failing.received.code(), 0, "{:?}", failing.received);
    assert_eq!(failing.source.run_state()?, "postmigrate");
    let arrived = failing.target.run_state()?;
    println!("it arrived as {arrived:?}");
    assert_ne!(arrived, "running");
    // The guest is whole: without the bad sector it goes on.
    let event = failing
        .target
        .execute("query-status", json!({}))
        .context("it answers")?;
    assert_eq!(event["running"], false);
    drop(failing);
    bed.finish();
    Ok(())
}
