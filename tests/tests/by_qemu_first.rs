//! A guest with memory that only QEMU can move: QEMU moves it to where pagelift can go on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagelift_tests::contract::check_failed;
use pagelift_tests::{Bed, PATIENCE, Programs, Qemu, Ticks, Workload, guest_images, require};
use serde_json::json;

const MIB: u64 = 1 << 20;
const DIMM: &str = "pc-dimm,id=dimm1,memdev=m1";

/// What the refusal says is done: by QEMU to a QEMU on this host whose memory is in shared files, and
/// on from there by pagelift.
#[test]
fn a_guest_in_private_memory_is_moved_by_qemu_and_then_by_pagelift() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 16 * MIB,
        rate_bytes_per_s: 2 * MIB,
        ..Workload::default()
    };
    let room = ["-m", "160M,slots=2,maxmem=1G"];
    let machine = Qemu::builder(&bed, &images).workload(&workload).args(room);
    let plain = machine.clone().start("plain")?;
    for kind in ["memory-backend-memfd", "memory-backend-ram"] {
        let id = if kind.ends_with("memfd") { "m1" } else { "m2" };
        let backend = json!({ "qom-type": kind, "id": id, "size": 128 * MIB, "share": true });
        plain.execute("object-add", backend)?;
    }
    plain.execute(
        "device_add",
        json!({ "driver": "pc-dimm", "id": "dimm1", "memdev": "m1" }),
    )?;
    plain.wait_ticks(2)?;
    let refused = programs
        .send(&bed, &plain, "tcp://127.0.0.1:1", &[])?
        .wait()?;
    let report = refused.json()?;
    let (_, message) = check_failed(&report, "failed");
    for words in [
        "memory backend pc.ram is memory-backend-ram with share=off, which only QEMU can move",
        "memory backend m1 is memory-backend-memfd with share=on, which only QEMU can move",
        "unplug memory device dimm1 (device_del)",
        "can be moved by QEMU itself to such a QEMU on this host (QMP 'migrate')",
    ] {
        assert!(message.contains(words), "no {words:?} in {message}");
    }

    let object = format!("memory-backend-ram,id=m1,size={}", 128 * MIB);
    let shared = programs
        .wrap(machine)
        .args(["-object", &object, "-device", DIMM]);
    let between = shared.clone().waiting().start("between")?;
    let uri = json!({ "uri": format!("unix:{}", bed.dir().join("migration").display()) });
    between.execute("migrate-incoming", uri.clone())?;
    plain.execute("migrate", uri)?;
    let deadline = Instant::now() + PATIENCE;
    while between.run_state()? != "running" {
        ensure!(
            Instant::now() < deadline,
            "{}",
            plain.execute("query-migrate", json!({}))?
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    between.wait_ticks(2)?;

    let target = shared.waiting().start("target")?;
    programs.migrate(&bed, &between, &target, &["--verify", "--downtime=2s"])?;
    target.wait_ticks(2)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[plain.log(), between.log(), target.log()])?;
    drop((plain, between, target));
    bed.finish();
    Ok(())
}
