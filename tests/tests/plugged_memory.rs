//! Memory that was plugged in while the guest ran.

use std::os::unix::fs::FileExt;

use anyhow::Result;
use pagelift_tests::contract::check_failed;
use pagelift_tests::{Bed, Programs, Qemu, Workload, guest_images, require};
use serde_json::json;

const MIB: u64 = 1 << 20;
const DIMM_BYTES: u64 = 128 * MIB;

/// A DIMM of a shared file moves; one of QEMU's own memory is refused, with a way out that there is.
#[test]
fn a_dimm_that_was_plugged_in_moves_if_its_memory_is_a_shared_file() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        ..Workload::default()
    };
    let machine = Qemu::builder(&bed, &images).workload(&workload);
    let machine = programs
        .wrap(machine)
        .args(["-S", "-m", "160M,slots=2,maxmem=1G"]);
    let files = [
        bed.shm_file("here", DIMM_BYTES)?,
        bed.shm_file("there", DIMM_BYTES)?,
    ];
    let path = |side: usize| files[side].path().display().to_string();
    let source = machine.clone().start("source")?;
    let backend = json!({ "qom-type": "memory-backend-file", "id": "m1", "size": DIMM_BYTES,
                          "mem-path": path(0), "share": true });
    source.execute("object-add", backend)?;
    let dimm = |id: &str, memory: &str| json!({ "driver": "pc-dimm", "id": id, "memdev": memory });
    source.execute("device_add", dimm("dimm1", "m1"))?;
    let content: Vec<u8> = (0..DIMM_BYTES / 8)
        .flat_map(|n| (n * n).to_le_bytes())
        .collect();
    std::fs::File::options()
        .write(true)
        .open(files[0].path())?
        .write_all_at(&content, 0)?;

    let own = json!({ "qom-type": "memory-backend-ram", "id": "m2", "size": DIMM_BYTES });
    source.execute("object-add", own)?;
    source.execute("device_add", dimm("dimm2", "m2"))?;
    let refused = programs
        .send(&bed, &source, "tcp://127.0.0.1:1", &[])?
        .wait()?;
    let report = refused.json()?;
    let (_, message) = check_failed(&report, "failed");
    assert!(
        message.contains("unplug memory device dimm2 (device_del)"),
        "{message}"
    );
    assert!(!message.contains("dimm1"), "{message}");
    drop(source);

    // Without the second.
    let source = machine.clone().start("again")?;
    let backend = json!({ "qom-type": "memory-backend-file", "id": "m1", "size": DIMM_BYTES,
                          "mem-path": path(0), "share": true });
    source.execute("object-add", backend)?;
    source.execute("device_add", dimm("dimm1", "m1"))?;
    let object = format!(
        "memory-backend-file,id=m1,size={DIMM_BYTES},mem-path={},share=on",
        path(1)
    );
    let target = machine.args(["-object", &object, "-device", "pc-dimm,id=dimm1,memdev=m1"]);
    let target = target.waiting().start("target")?;
    programs.migrate(&bed, &source, &target, &["--verify"])?;
    assert!(
        std::fs::read(files[1].path())? == content,
        "the memory differs"
    );
    drop((source, target, files));
    bed.finish();
    Ok(())
}
