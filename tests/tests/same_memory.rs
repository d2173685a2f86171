//! A guest that goes from one QEMU to another on the same host, and its memory stays where it is.

use anyhow::Result;
use pagelift_tests::contract::check_failed;
use pagelift_tests::{
    Bed, Finished, Programs, Qemu, Run, Snapshot, Ticks, Workload, guest_images, require,
};

const MIB: u64 = 1 << 20;

fn send(programs: &Programs, bed: &Bed, source: &Qemu, to: &str) -> Result<Finished> {
    let mut send = programs.command(bed, "pagelift-send");
    send.arg("--qmp").arg(source.qmp_path());
    send.args(["--to", to, "--json", "--same-memory", "--downtime", "5s"]);
    Run::start(bed, "send", send)?.wait()
}

#[test]
fn a_guest_is_handed_over_and_none_of_its_memory_is_copied() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 32 * MIB,
        rate_bytes_per_s: 20 * MIB,
        ..Workload::default()
    };
    let machine = Qemu::builder(&bed, &images).workload(&workload);
    let source = programs.wrap(machine.clone()).start("source")?;
    source.wait_ticks(2)?;

    // A QEMU with memory of its own cannot have it handed over.
    let stranger = programs.wrap(machine.clone()).waiting().start("stranger")?;
    let (receive, uri) = programs.receive_with(&bed, &stranger, &["--same-memory".as_ref()])?;
    let before = Snapshot::of(&source)?;
    let refused = send(&programs, &bed, &source, &uri)?;
    assert_eq!(refused.code(), 1, "{refused:?}");
    let report = refused.json()?;
    let (_, message) = check_failed(&report, "failed");
    assert!(
        message.contains("memory-of") || message.contains("differs"),
        "{message}"
    );
    before.assert_same(&source)?;
    let said = receive.stderr();
    assert!(said.contains("cannot be handed over"), "{said}");
    drop(receive);
    drop(stranger);

    let heir = programs.wrap_borrowing(machine, &source.qmp_path());
    let target = heir.waiting().start("target")?;
    // One side alone is told to hand over.
    let (receive, uri) = programs.receive(&bed, &target)?;
    let refused = send(&programs, &bed, &source, &uri)?;
    assert_eq!(refused.code(), 1, "{refused:?}");
    before.assert_same(&source)?;
    drop(receive);

    let (receive, uri) = programs.receive_with(&bed, &target, &["--same-memory".as_ref()])?;
    let sent = send(&programs, &bed, &source, &uri)?;
    assert_eq!(sent.code(), 0, "{sent:?}; {}", receive.stderr());
    let report = sent.json()?;
    assert_eq!(report["outcome"], "completed");
    let received = receive.wait()?;
    assert_eq!(received.code(), 0, "{received:?}");
    // Device state, messages, and not a page.
    let wire_bytes = report["wire_bytes"].as_u64().unwrap_or(u64::MAX);
    assert!(wire_bytes < 8 * MIB, "{report}");
    assert_eq!(target.run_state()?, "running");
    // The memory does not go with the QEMU that it was made for.
    let before = source.log();
    drop(source);
    target.wait_ticks(3)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[before, target.log()])?;
    drop(target);
    bed.finish();
    Ok(())
}
