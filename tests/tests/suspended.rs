//! A guest that is suspended to RAM (S3) arrives so, and wakes up there.

use anyhow::Result;
use pagelift_tests::{Bed, PATIENCE, Programs, Qemu, Ticks, Workload, guest_images, require};
use serde_json::json;

const MIB: u64 = 1 << 20;

#[test]
fn a_suspended_guest_arrives_suspended_and_wakes_up() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 16 * MIB,
        rate_bytes_per_s: MIB,
        ..Workload::default()
    };
    let append = format!("{} suspend", workload.kernel_args());
    let machine = Qemu::builder(&bed, &images).workload(&workload);
    let machine = programs.wrap(machine).arg("-append").arg(append);
    let (source, target) = machine.start_pair()?;
    source.wait_event("SUSPEND", PATIENCE)?;
    assert_eq!(source.run_state()?, "suspended");

    // A move that does not happen leaves it suspended.
    let refused = programs.send(&bed, &source, "tcp://127.0.0.1:1", &[])?;
    assert_eq!(refused.wait()?.code(), 1);
    assert_eq!(source.run_state()?, "suspended");

    let moved = programs.migrate(&bed, &source, &target, &["--verify"])?;
    assert_eq!(moved.sent.json()?["vm_location"], "target");
    assert_eq!(source.run_state()?, "postmigrate");
    assert_eq!(target.run_state()?, "suspended");
    target.execute("system_wakeup", json!({}))?;
    target.wait_ticks(2)?;
    assert_eq!(target.run_state()?, "running");
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log(), target.log()])?;
    drop((source, target));
    bed.finish();
    Ok(())
}
