//! Other hands on the source's QEMU while a guest is sent: the move ends with what they did, in words,
//! and the guest and their work go on.

use std::time::Duration;

use anyhow::Result;
use pagelift_tests::contract::check_failed;
use pagelift_tests::{Bed, Programs, Qemu, Snapshot, Workload, guest_images, require};
use serde_json::json;

const MIB: u64 = 1 << 20;

/// The end must not wait for the rest of the RAM, which takes longer than this.
const AT_ONCE: Duration = Duration::from_secs(20);

#[test]
fn what_others_begin_ends_the_move_at_once() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 64 * MIB,
        rate_bytes_per_s: MIB,
        ..Workload::default()
    };
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&workload));
    let target = machine.clone().waiting().start("target")?;
    let source = machine.start("source")?;
    source.wait_ticks(2)?;
    let before = Snapshot::of(&source)?;
    let saved = bed.dir().join("saved");
    let save = json!({ "uri": format!("file:{}", saved.display()) });
    let hands = [
        (
            "device_add",
            json!({ "driver": "virtio-rng-pci", "id": "r0" }),
            "device r0 (virtio-rng-pci) was plugged in",
        ),
        ("migrate", save, "somebody else"),
    ];
    for (command, arguments, words) in hands {
        let (receive, uri) = programs.receive(&bed, &target)?;
        // Over a minute for all of it.
        let mut send = programs.send(&bed, &source, &uri, &["--bandwidth=8Mbit/s"])?;
        send.wait_stderr(|text| text.contains("round 1 ").then_some(()))?;
        let begun = std::time::Instant::now();
        source.execute(command, arguments)?;
        let sent = send.wait()?;
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        assert_eq!(sent.code(), 1, "{sent:?}");
        let report = sent.json()?;
        let (code, message) = check_failed(&report, "failed");
        assert_eq!(code, "guest-stays", "{message}");
        assert!(message.contains(words), "{message}");
        assert_ne!(receive.wait()?.code(), 0);
        if command == "device_add" {
            source.wait_ticks(2)?;
            before.assert_same(&source)?;
            source.execute("device_del", json!({ "id": "r0" }))?;
            source.wait_event("DEVICE_DELETED", AT_ONCE)?;
        }
    }
    // Theirs went on to its end, and has the RAM in it.
    let deadline = std::time::Instant::now() + AT_ONCE;
    while source.run_state()? != "postmigrate" {
        assert!(
            std::time::Instant::now() < deadline,
            "{}",
            source.run_state()?
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(std::fs::metadata(&saved)?.len() > workload.fill_bytes);
    source.execute("cont", json!({}))?;
    source.wait_ticks(2)?;
    assert_eq!(source.verify()?.bad, 0);
    drop((source, target));
    bed.finish();
    Ok(())
}
