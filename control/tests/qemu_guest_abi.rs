//! What the guest sees is compared up front, with real QEMUs that differ in one option each.

#![cfg(target_os = "linux")]

mod host;

use host::{TestQemu, has_qemu};
use pagelift_control::driver::qemu::Guest;
use pagelift_control::qmp::Qmp;
use pagelift_engine::wire::{GuestProperty, PropertyKind};
use serde_json::{Value, json};

fn details(qemu: &TestQemu) -> Vec<GuestProperty> {
    let guest = Guest::inspect(&Qmp::connect(&qemu.address()).unwrap()).unwrap();
    let properties = guest.properties().into_iter();
    properties
        .filter(|property| property.kind == PropertyKind::Detail)
        .collect()
}

/// Names of the details that differ.
fn differing(one: &[GuestProperty], other: &[GuestProperty]) -> Vec<String> {
    let only = |these: &[GuestProperty], those: &[GuestProperty]| {
        let only = these.iter().filter(|detail| !those.contains(detail));
        only.map(|detail| detail.name.clone()).collect::<Vec<_>>()
    };
    let mut names = [only(one, other), only(other, one)].concat();
    names.sort_unstable();
    names.dedup();
    names
}

fn has_entry(details: &[GuestProperty], name: &str, entry: &str) -> bool {
    let found = details.iter().find(|detail| detail.name == name);
    found.is_some_and(|detail| detail.value.lines().any(|line| line == entry))
}

const MACHINE: [&str; 8] = [
    "-smp",
    "2,maxcpus=4",
    "-device",
    "virtio-net-pci,id=n0,mac=52:54:00:00:00:01",
    "-device",
    "virtio-scsi-pci,id=s0",
    "-m",
    "64,maxmem=1G,slots=2",
];

/// A command line that differs, and the names of the details that tell.
const OTHERS: [(&[&str], &[&str]); 6] = [
    (&["-cpu", "qemu64,-svm,+avx2"], &["CPU flags"]),
    (&["-cpu", "Nehalem"], &["CPU", "CPU flags", "CPU model"]),
    (&["-smp", "2,maxcpus=8"], &["-smp"]),
    (&["-m", "64,maxmem=2G,slots=3"], &["-m"]),
    (&["-machine", "hpet=off"], &["-machine", "device hpet"]),
    (
        &["-device", "virtio-rng-pci,addr=0x9"],
        &["device 09.0", "device 09.0/virtio-rng-device"],
    ),
];

#[test]
fn a_difference_in_the_machine_is_named_by_its_option() {
    if !has_qemu() {
        return;
    }
    let source = details(&TestQemu::start(&MACHINE));
    assert!(has_entry(&source, "CPU model", "qemu64"));
    assert!(has_entry(&source, "CPU flags", "svm"));
    assert!(has_entry(&source, "-smp", "maxcpus=4"));
    assert!(has_entry(&source, "-m", "slots=2"));
    assert!(has_entry(&source, "device 02.0", "virtio-net-pci"));
    // Ids and what is behind a device are no business of the guest's.
    let target = TestQemu::start_target(&MACHINE.map(|word| match word {
        "virtio-scsi-pci,id=s0" => "virtio-scsi-pci,id=other",
        word => word,
    }));
    assert_eq!(differing(&source, &details(&target)), [""; 0]);
    drop(target);
    for (arguments, names) in OTHERS {
        let other = details(&TestQemu::start_target(&[&MACHINE, arguments].concat()));
        assert_eq!(differing(&source, &other), names, "{arguments:?}");
    }
}

/// A running guest and its firmware change nothing of what is compared; a hotplugged vCPU does.
#[test]
fn what_the_guest_does_is_no_difference_and_a_hotplugged_vcpu_is() {
    if !has_qemu() {
        return;
    }
    let qemu = TestQemu::start(&MACHINE);
    let before = details(&qemu);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(differing(&before, &details(&qemu)), [""; 0]);
    let cpu = json!({ "driver": "qemu64-x86_64-cpu", "id": "c2", "socket-id": 0, "core-id": 2,
                      "thread-id": 0 });
    qemu.second().execute("device_add", cpu).unwrap();
    let after = details(&qemu);
    assert_eq!(differing(&before, &after), ["vCPUs"]);
}

/// Flags are read from CPUID's words by a table of names; QEMU says of each by its name the same.
#[test]
fn flags_read_by_their_bits_are_those_that_qemu_names() {
    if !has_qemu() {
        return;
    }
    let qemu = TestQemu::start(&["-cpu", "max"]);
    let details = details(&qemu);
    let flags = details.iter().find(|detail| detail.name == "CPU flags");
    let read: Vec<&str> = flags.unwrap().value.lines().collect();
    let qmp = qemu.second();
    let cpus = qmp.execute("query-cpus-fast", Value::Null).unwrap();
    let path = cpus[0]["qom-path"].as_str().unwrap();
    let mut on = 0;
    for entry in list(&qmp, path) {
        let name = entry["name"].as_str().unwrap();
        let value = json!({ "path": path, "property": name });
        // Of flags that TCG's guests do not see, QEMU says what the command line said.
        let unseen = ["hv-", "kvm-", "kvmclock", "vmx-", "xen-"];
        let others = [
            "check",
            "enforce",
            "migratable",
            "realized",
            "hotpluggable",
            "fill-mtrr-mask",
        ];
        if entry["type"] != "bool"
            || name.contains(['_', '.'])
            || unseen.iter().any(|prefix| name.starts_with(prefix))
            || name.starts_with("x-")
            || others.contains(&name)
        {
            continue;
        }
        let is_on = qmp.execute("qom-get", value).unwrap() == true;
        assert_eq!(read.contains(&name), is_on, "{name}");
        on += usize::from(is_on);
    }
    assert!(on > 50 && read.len() == on, "{on} of {}", read.len());
}

fn list(qmp: &Qmp, path: &str) -> Vec<Value> {
    let list = qmp.execute("qom-list", json!({ "path": path })).unwrap();
    list.as_array().unwrap().clone()
}
