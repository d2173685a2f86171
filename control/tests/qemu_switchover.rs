//! The hand-over between two real QEMUs, committed.

#![cfg(target_os = "linux")]

mod host;

use std::fs;

use host::handover::hand_over;
use host::{TestQemu, has_qemu, settings, state};
use pagelift_control::driver::qemu::TargetQemu;
use serde_json::json;

#[test]
fn running_guest_is_handed_over() {
    if !has_qemu() {
        return;
    }
    // One image for both, as on shared storage: QEMU locks it for the side that owns the guest.
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let drive = format!(
        "driver=file,filename={},node-name=d",
        image.path().display()
    );
    let devices = [
        "-vga",
        "std",
        "-blockdev",
        &drive,
        "-device",
        "virtio-blk-pci,drive=d",
    ];
    let (source, target) = (TestQemu::start(&devices), TestQemu::start_target(&devices));
    // A manager's own settings, which would be in the way.
    let multifd = json!([{ "capability": "multifd", "state": true }]);
    for qemu in [&source, &target] {
        let qmp = qemu.second();
        qmp.execute(
            "migrate-set-capabilities",
            json!({ "capabilities": multifd }),
        )
        .unwrap();
        qmp.execute("migrate-set-parameters", json!({ "downtime-limit": 123 }))
            .unwrap();
    }
    let before = (settings(&source), settings(&target));
    let over = hand_over(&source, &target, false);
    assert!(over.completed_at() > over.stopped_at());
    over.finish().unwrap();
    assert_eq!(state(&source), ("postmigrate".into(), "completed".into()));
    assert_eq!(state(&target), ("running".into(), "completed".into()));
    assert_eq!((settings(&source), settings(&target)), before);
    // Its memory is its own: what the guest does now does not reach the source.
    assert_ne!(source.ram_file(), target.ram_file());
    assert_eq!(
        fs::metadata(target.ram_file()).unwrap().len(),
        host::RAM_BYTES
    );
}

#[test]
fn paused_guest_stays_paused() {
    if !has_qemu() {
        return;
    }
    // Long enough for the firmware to have written something.
    let (source, target) = (TestQemu::start(&[]), TestQemu::start_target(&["-S"]));
    source
        .second()
        .execute("stop", serde_json::Value::Null)
        .unwrap();
    hand_over(&source, &target, true).finish().unwrap();
    assert_eq!(state(&source).0, "postmigrate");
    assert_eq!(state(&target).0, "paused");
    target
        .second()
        .execute("cont", serde_json::Value::Null)
        .unwrap();
    assert_eq!(state(&target).0, "running");
}

#[test]
fn held_target_is_released() {
    if !has_qemu() {
        return;
    }
    let target = TestQemu::start_target(&[]);
    let before = settings(&target);
    let held = TargetQemu::connect(&target.address())
        .unwrap()
        .hold()
        .unwrap();
    held.cancel().unwrap();
    assert_eq!(settings(&target), before);
    // It still takes a guest.
    let source = TestQemu::start(&[]);
    hand_over(&source, &target, false).finish().unwrap();
    assert_eq!(state(&target).0, "running");
}
