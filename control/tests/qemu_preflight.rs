//! What is refused, and what is let through, with real QEMUs.

#![cfg(target_os = "linux")]

mod host;

use std::fs::File;

use host::{RAM_BYTES, TestQemu, has_qemu};
use pagelift_control::driver::Refusal;
use pagelift_control::driver::qemu::preflight;
use pagelift_control::driver::qemu::{Guest, InspectError};
use pagelift_control::qmp::Qmp;
use pagelift_engine::wire::PropertyKind;
use serde_json::{Value, json};

fn look(qemu: &TestQemu) -> (Qmp, Guest) {
    let qmp = Qmp::connect(&qemu.address()).unwrap();
    let guest = Guest::inspect(&qmp).unwrap();
    (qmp, guest)
}

fn source_refusals(qemu: &TestQemu) -> Vec<Refusal> {
    let (qmp, guest) = look(qemu);
    preflight::source(&qmp, &guest, false).unwrap()
}

#[track_caller]
fn assert_refused(refusals: &[Refusal], parts: &[&str]) {
    let all: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
    for part in parts {
        assert!(
            all.iter().any(|text| text.contains(part)),
            "no {part:?} in {all:#?}"
        );
    }
    assert_eq!(refusals.len(), parts.len(), "{all:#?}");
}

#[test]
fn movable_guest_is_described() {
    if !has_qemu() {
        return;
    }
    let qemu = TestQemu::start(&["-vga", "std", "-device", "virtio-balloon-pci"]);
    let (qmp, guest) = look(&qemu);
    assert_eq!(preflight::source(&qmp, &guest, false).unwrap(), []);
    assert_eq!(guest.pid, qemu.pid());
    assert!(guest.version.major >= 10);
    assert!(guest.machine.starts_with("pc-i440fx-"), "{}", guest.machine);
    assert_eq!(
        (guest.accelerator, guest.run_state.as_str()),
        ("tcg", "running")
    );
    let ram = guest.open_ram().unwrap();
    assert_eq!(ram.len(), 1);
    assert_eq!((ram[0].name.as_str(), ram[0].bytes), ("pc.ram", RAM_BYTES));
    assert_eq!(
        (ram[0].backend_id.as_str(), ram[0].file_offset),
        ("pc.ram", 0)
    );
    assert_eq!(ram[0].file.metadata().unwrap().len(), RAM_BYTES);
    assert!(
        guest
            .device_blocks
            .iter()
            .any(|block| block.name.ends_with("vga.vram"))
    );
    assert!(
        guest
            .device_blocks
            .is_sorted_by_key(|block| block.name.clone())
    );
}

#[test]
fn both_sides_have_the_same_properties() {
    if !has_qemu() {
        return;
    }
    let (_, source) = look(&TestQemu::start(&[]));
    let (qmp, target) = look(&TestQemu::start_target(&[]));
    assert_eq!(source.properties(), target.properties());
    drop(qmp);
    let other = TestQemu::start_target(&["-machine", "q35", "-vga", "std"]);
    let (qmp, other) = look(&other);
    let required = |guest: &Guest| {
        let properties = guest.properties().into_iter();
        properties.filter(|property| property.kind == PropertyKind::Required)
    };
    let differing = required(&source).zip(required(&other));
    let keys: Vec<_> = differing
        .filter(|(a, b)| a != b)
        .map(|(a, _)| a.name)
        .collect();
    assert_eq!(keys, ["machine type", "device RAM blocks (bytes)"]);
    assert_eq!(preflight::target(&qmp, &other).unwrap(), []);
}

#[test]
fn memory_behind_a_descriptor_and_an_offset() {
    if !has_qemu() {
        return;
    }
    let ram = TestQemu::ram_path();
    File::create(&ram)
        .unwrap()
        .set_len(RAM_BYTES + (1 << 20))
        .unwrap();
    let object = format!(
        "memory-backend-file,id=m0,size=64M,mem-path={},share=on,offset=1M",
        ram.display()
    );
    let qemu = TestQemu::start_bare(
        ram.clone(),
        &["-object", &object, "-machine", "pc,memory-backend=m0"],
    );
    // As with a memfd: no name leads to the file any more.
    std::fs::remove_file(&ram).unwrap();
    let (_, guest) = look(&qemu);
    let ram = guest.open_ram().unwrap();
    assert_eq!((ram[0].name.as_str(), ram[0].file_offset), ("m0", 1 << 20));
    assert_eq!(ram[0].file.metadata().unwrap().len(), RAM_BYTES + (1 << 20));
}

#[test]
fn private_memory_is_refused() {
    if !has_qemu() {
        return;
    }
    let plain = TestQemu::start_bare(TestQemu::ram_path(), &["-machine", "pc"]);
    assert_refused(
        &source_refusals(&plain),
        &["memory backend pc.ram is memory-backend-ram with share=off"],
    );
    drop(plain);
    let object = "memory-backend-memfd,id=m0,size=64M,share=on";
    let memfd = ["-object", object, "-machine", "pc,memory-backend=m0"];
    let memfd = TestQemu::start_bare(TestQemu::ram_path(), &memfd);
    assert_refused(
        &source_refusals(&memfd),
        &["-object memory-backend-file,id=m0,size=67108864,mem-path=/dev/shm/m0,share=on"],
    );
    let (_, mut guest) = look(&memfd);
    // A process that has nothing at that address is not taken for QEMU.
    guest.pid = std::process::id();
    assert!(matches!(
        guest.open_ram(),
        Err(InspectError::NotMapped { .. })
    ));
}

#[test]
fn all_reasons_are_told_at_once() {
    if !has_qemu() {
        return;
    }
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let drive = |direct: &str| {
        let path = disk.path().display();
        format!(
            "driver=file,filename={path},node-name=d{direct},cache.direct={direct},read-only=on"
        )
    };
    let qemu = TestQemu::start(&[
        "-blockdev",
        &drive("on"),
        "-blockdev",
        &drive("off"),
        "-object",
        "memory-backend-ram,id=shared,size=1M,share=on",
        "-device",
        "ivshmem-plain,memdev=shared,id=shm0,master=off",
    ]);
    assert_refused(
        &source_refusals(&qemu),
        &[
            "memory backend shared is memory-backend-ram with share=on",
            "device shm0 (ivshmem-plain) cannot be tracked",
            "(node don, driver file) bypasses the page cache",
            "QEMU itself cannot migrate this guest: ",
        ],
    );
}

#[test]
fn private_pluggable_memory_is_refused_and_persistent_memory_is_no_ram() {
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let storage = format!(
        "memory-backend-file,id=disk0,size=4M,mem-path={}/pmem,share=on,discard-data=on",
        folder.path().display()
    );
    let qemu = TestQemu::start(&[
        "-m",
        "64,maxmem=1G",
        "-object",
        "memory-backend-ram,id=more,size=128M",
        "-device",
        "virtio-mem-pci,memdev=more,id=vm0",
        "-object",
        &storage,
        "-device",
        "virtio-pmem-pci,memdev=disk0,id=pm0",
    ]);
    let (qmp, guest) = look(&qemu);
    // QEMU does not migrate what is behind virtio-pmem; the other's name has its device's path.
    let backends = guest
        .ram
        .iter()
        .map(|block| guest.backend_of(&block.name).unwrap());
    assert!(
        backends
            .map(|backend| backend.id.as_str())
            .eq(["more", "pc.ram"])
    );
    assert_eq!(guest.persistent, ["disk0"]);
    // Which it would no longer be when this QEMU has ended: such a file is not left alone.
    let emptied = |id: &str| guest.backends.iter().any(|b| b.id == id && b.discards_data);
    assert!(emptied("disk0") && !emptied("pc.ram"));
    let disks = guest.open_persistent().unwrap();
    assert_eq!((disks.len(), disks[0].bytes), (1, 4 << 20));
    assert_refused(
        &preflight::source(&qmp, &guest, false).unwrap(),
        &["memory backend more is memory-backend-ram with share=off"],
    );
}

#[test]
fn a_read_only_backend_is_no_ram_but_may_be_a_disk() {
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        File::create(&path).unwrap().set_len(4 << 20).unwrap();
        let path = path.display();
        format!("memory-backend-file,id={name},size=4M,mem-path={path},readonly=on,share=on")
    };
    let qemu = TestQemu::start(&[
        "-machine",
        "nvdimm=on",
        "-m",
        "64,slots=2,maxmem=1G",
        "-object",
        &file("disk0"),
        "-device",
        "nvdimm,memdev=disk0,id=nv0,unarmed=on",
        "-object",
        &file("rom0"),
        "-device",
        "pc-dimm,memdev=rom0,id=dimm0",
    ]);
    let (qmp, guest) = look(&qemu);
    let disks = guest.open_persistent().unwrap();
    assert_eq!((disks.len(), disks[0].name.as_str()), (1, "disk0"));
    assert!(
        disks[0].file.set_len(0).is_err(),
        "it is open for reading only"
    );
    assert_refused(
        &preflight::source(&qmp, &guest, false).unwrap(),
        &["memory backend rom0 is read-only"],
    );
}

/// With such a balloon QEMU crashes as soon as its own migration takes so long that the guest answers.
#[test]
fn a_balloon_with_free_page_hints_is_refused() {
    if !has_qemu() {
        return;
    }
    let balloon = "virtio-balloon-pci,id=b0,iothread=io0,free-page-hint=";
    let device = |hint: &str| format!("{balloon}{hint}");
    for (hint, refused) in [
        ("on", &["device b0 has free-page-hint=on"][..]),
        ("off", &[]),
    ] {
        let device = device(hint);
        let qemu = TestQemu::start(&["-object", "iothread,id=io0", "-device", &device]);
        assert_refused(&source_refusals(&qemu), refused);
    }
}

#[test]
fn wrong_states_are_refused() {
    if !has_qemu() {
        return;
    }
    let waiting = TestQemu::start_target(&[]);
    assert_refused(&source_refusals(&waiting), &["this is a target"]);
    let running = TestQemu::start(&[]);
    let (qmp, guest) = look(&running);
    assert_refused(
        &preflight::target(&qmp, &guest).unwrap(),
        &["the target's state is \"running\""],
    );

    // A migration that goes nowhere: its reader waits.
    let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let on = json!([{ "capability": "pause-before-switchover", "state": true }]);
    qmp.execute("migrate-set-capabilities", json!({ "capabilities": on }))
        .unwrap();
    qmp.getfd("stuck", std::os::fd::AsFd::as_fd(&theirs))
        .unwrap();
    qmp.execute("migrate", json!({ "uri": "fd:stuck" }))
        .unwrap();
    assert_refused(
        &preflight::source(&qmp, &guest, false).unwrap(),
        &["QEMU has another migration"],
    );

    // A target whose first guest did not come.
    let (qmp, guest) = look(&waiting);
    let mut events = qmp.events();
    let on = json!([{ "capability": "events", "state": true }]);
    qmp.execute("migrate-set-capabilities", json!({ "capabilities": on }))
        .unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    qmp.getfd("in", std::os::fd::AsFd::as_fd(&theirs)).unwrap();
    drop((ours, theirs));
    let incoming = json!({ "uri": "fd:in", "exit-on-error": false });
    qmp.execute("migrate-incoming", incoming).unwrap();
    events
        .wait("the failure", host::LIMIT, |event| {
            (event.text("status") == Some("failed")).then_some(())
        })
        .unwrap();
    assert_refused(
        &preflight::target(&qmp, &guest).unwrap(),
        &["start the target afresh"],
    );
    assert_eq!(
        qmp.execute("query-status", Value::Null).unwrap()["status"],
        "inmigrate"
    );
}
