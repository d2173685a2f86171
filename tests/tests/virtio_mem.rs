//! Guests whose memory virtio-mem plugs in and out, also while they move.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pagelift_tests::{
    Bed, Ctl, HugePages, Images, PATIENCE, Programs, Qemu, Ticks, Workload, guest_images, require,
};
use serde_json::json;

const MIB: u64 = 1 << 20;
const DEVICE: &str = "/machine/peripheral/vm0";

/// How much is plugged in.
fn plugged_mib(qemu: &Qemu) -> Result<u64> {
    let asked = json!({ "path": DEVICE, "property": "size" });
    let bytes = qemu.execute("qom-get", asked)?;
    Ok(bytes.as_u64().context("a size")? / MIB)
}

/// Asks for so much to be plugged in, and waits until the guest has done it.
fn plug_mib(qemu: &Qemu, mib: u64) -> Result<()> {
    let asked = json!({ "path": DEVICE, "property": "requested-size", "value": mib * MIB });
    qemu.execute("qom-set", asked)?;
    let deadline = Instant::now() + PATIENCE;
    while plugged_mib(qemu)? != mib {
        ensure!(
            Instant::now() < deadline,
            "{} MiB are plugged in",
            plugged_mib(qemu)?
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn memory_that_is_plugged_in_and_out_in_mid_move_arrives() -> Result<()> {
    let images = require!(guest_images());
    // All RAM is compared.
    check(
        &images,
        "memory-backend-ram,id=more,size=512M",
        &["--verify"],
    )
}

/// What was unplugged cannot be told from what is there, and its older content may arrive; the target's
/// QEMU discards it.
#[test]
fn huge_pages_that_are_plugged_in_and_out_in_mid_move_arrive() -> Result<()> {
    let images = require!(guest_images());
    let _pages = require!(HugePages::reserve(2 * 512 * MIB));
    let object = "memory-backend-memfd,id=more,size=512M,hugetlb=on,hugetlbsize=2M";
    check(&images, object, &[])
}

/// A quarter of `object` is plugged in when the move begins; then half of that goes, with what was in it,
/// and then more comes.
fn check(images: &Images, object: &str, options: &[&str]) -> Result<()> {
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 64 * MIB,
        // More than the link carries at first, so that the move does not end before it is to.
        rate_bytes_per_s: 16 * MIB,
        ..Workload::default()
    };
    // It fills more than it has without what is plugged in.
    let append = format!(
        "{} virtio memhp_default_state=online_movable memory_kib={}",
        workload.kernel_args(),
        150 << 10
    );
    let machine = Qemu::builder(&bed, images).workload(&workload);
    let machine = programs.wrap(machine).args([
        "-append",
        &append,
        "-m",
        "160M,maxmem=2G",
        "-object",
        object,
        "-device",
        "virtio-mem-pci,id=vm0,memdev=more,requested-size=128M",
    ]);
    let (source, target) = machine.start_pair()?;
    source.wait_ready()?;
    assert_eq!(plugged_mib(&source)?, 128);

    let ctl = Ctl::new(&bed, bed.dir().join("control"));
    let control = format!("--control={}", ctl.socket().display());
    let (receive, uri) = programs.receive(&bed, &target)?;
    let slow = ["--bandwidth=16Mbit/s", "--compress=none", "--policy=none"];
    let options = [&slow[..], options, &[&control]].concat();
    let mut send = programs.send(&bed, &source, &uri, &options)?;
    send.wait_stderr(|text| text.contains("round 1 ").then_some(()))?;
    plug_mib(&source, 64)?;
    plug_mib(&source, 192)?;
    ctl.set(&["bandwidth=none", "downtime=2s"])?;
    let sent = send.wait()?;
    assert_eq!(sent.code(), 0, "{sent:?}");
    assert_eq!(receive.wait()?.code(), 0);

    assert_eq!(plugged_mib(&target)?, 192);
    target.wait_ticks(3)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log(), target.log()])?;
    // It goes on being plugged in and out.
    plug_mib(&target, 128)?;
    assert_eq!(target.verify()?.bad, 0);
    drop((source, target));
    bed.finish();
    Ok(())
}
