//! A QEMU guest that moves through one byte stream: what ssh gives, and libvirt's tunnel.

use anyhow::Result;
use pagelift_tests::contract::check_completed;
use pagelift_tests::{Bed, Programs, Qemu, Run, Ticks, Workload, guest_images, require};

const MIB: u64 = 1 << 20;

#[test]
fn a_guest_moves_through_a_program_that_carries_the_bytes() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 32 * MIB,
        rate_bytes_per_s: 4 * MIB,
        ..Workload::default()
    };
    let machine = programs.wrap(Qemu::builder(&bed, &images).workload(&workload));
    let (source, target) = machine.start_pair()?;
    source.wait_ticks(2)?;

    let receive = programs.command(&bed, "pagelift-receive");
    let carrier = format!(
        "exec:exec '{}' --qmp '{}' --listen stdio: --json",
        receive.get_program().display(),
        target.qmp_path().display(),
    );
    let mut send = programs.command(&bed, "pagelift-send");
    send.arg("--qmp").arg(source.qmp_path());
    send.args(["--to", &carrier, "--json", "--verify", "--downtime", "5s"]);
    let sent = Run::start(&bed, "send", send)?.wait()?;
    assert_eq!(sent.code(), 0, "{sent:?}");
    check_completed(&sent.json()?, workload.memory_mib * MIB);
    // The target's report is beside its stream, not in it.
    assert!(sent.stderr.contains("\"vm_location\""), "{sent:?}");
    assert_eq!(target.run_state()?, "running");
    target.wait_ticks(3)?;
    assert_eq!(target.verify()?.bad, 0);
    Ticks::check(&workload, &[source.log(), target.log()])?;
    drop((source, target));
    bed.finish();
    Ok(())
}
