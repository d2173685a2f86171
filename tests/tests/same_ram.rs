//! Two QEMUs whose command lines name the same RAM file: the guest that runs on it must not be
//! cleared by the one that waits for it.

use anyhow::Result;
use pagelift_tests::contract::check_failed;
use pagelift_tests::{Bed, Programs, Qemu, Snapshot, Ticks, Workload, guest_images, require};

const MIB: u64 = 1 << 20;

#[test]
fn the_running_guests_own_ram_file_is_refused_and_stays_as_it_is() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    // Only one who is known is told why, and ends the wait.
    let programs = Programs::built()?.with_token();
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 16 * MIB,
        rate_bytes_per_s: 4 * MIB,
        ..Workload::default()
    };
    let ram = bed.shm_file("ram", workload.memory_mib << 20)?;
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&workload));
    let shared = machine.clone().ram_file(ram.path());
    let source = shared.clone().start("source")?;
    source.wait_ticks(2)?;
    let before = Snapshot::of(&source)?;
    let same = shared.waiting().start("same")?;
    let same_before = Snapshot::of(&same)?;
    source.wait_ticks(3)?;
    assert_eq!(source.verify()?.bad, 0, "QEMU alone does it no harm");
    let (receive, uri) = programs.receive(&bed, &same)?;
    let sent = programs.send(&bed, &source, &uri, &[])?.wait()?;
    for finished in [sent, receive.wait()?] {
        assert_eq!(finished.code(), 1, "{finished:?}");
        let report = finished.json()?;
        let (code, message) = check_failed(&report, "failed");
        assert_eq!(code, "refused", "{message}");
        assert!(
            message.contains("the very file that the guest runs on"),
            "{message}"
        );
        assert!(message.contains("a RAM file of its own"), "{message}");
    }
    before.assert_same(&source)?;
    same_before.assert_same(&same)?;
    drop(same);
    source.wait_ticks(2)?;
    assert_eq!(source.verify()?.bad, 0, "its memory is whole");

    // It still moves, to a QEMU that has a file of its own.
    let own = bed.shm_file("own", workload.memory_mib << 20)?;
    let target = machine.ram_file(own.path()).waiting().start("target")?;
    programs.migrate(&bed, &source, &target, &["--verify"])?;
    target.wait_ticks(3)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log(), target.log()])?;
    drop((source, target, ram, own));
    bed.finish();
    Ok(())
}
