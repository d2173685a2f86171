//! Topology, room for memory, memory devices and options of the machine.

use pagelift_engine::wire::GuestProperty;
use serde_json::Value;

use super::{listed, plain, values};
use crate::qmp::{Qmp, QmpError};

const MACHINE: &str = "/machine";

/// Options of a machine that the guest does not see, or that its RAM blocks tell.
const UNSEEN: [&str; 14] = [
    "append",
    "aux-ram-share",
    "bus-lock-ratelimit",
    "dt-compatible",
    "dtb",
    "dump-guest-core",
    "dumpdtb",
    "firmware",
    "initrd",
    "kernel",
    "mem-merge",
    "memory-encryption",
    "pcspk-audiodev",
    "shim",
];

/// Kinds of QOM properties that are plain options.
const OPTIONS: [&str; 10] = [
    "OnOffAuto",
    "bool",
    "int",
    "int64",
    "size",
    "str",
    "string",
    "uint32",
    "uint64",
    "uint8",
];

pub(super) fn details(qmp: &Qmp) -> Result<Vec<GuestProperty>, QmpError> {
    let asked = listed(qmp, MACHINE)?
        .into_iter()
        .filter(|(name, kind)| {
            matches!(name.as_str(), "memory" | "smp")
                || (OPTIONS.contains(&kind.as_str())
                    && name != "type"
                    && !UNSEEN.contains(&name.as_str()))
        })
        .map(|(name, _)| name);
    let (mut details, mut options) = (Vec::new(), Vec::new());
    for (name, value) in values(qmp, MACHINE, asked.collect())? {
        match (name.as_str(), value) {
            ("smp", value) => {
                details.push(GuestProperty::detail("-smp", members(&value, &["cpus"])));
            }
            // Of the size RAM blocks tell.
            ("memory", value) => {
                let room = members(&value, &["size"]).into_iter();
                let room = room.map(|entry| entry.replace("max-size=", "maxmem="));
                details.push(GuestProperty::detail("-m", room));
            }
            // What is left to QEMU is named by its effect elsewhere.
            (_, Value::String(text)) if text == "auto" => {}
            (name, value) => options.push(format!("{name}={}", plain(&value))),
        }
    }
    details.push(GuestProperty::detail("-machine", options));
    let devices = qmp.execute("query-memory-devices", Value::Null)?;
    details.extend(devices.as_array().into_iter().flatten().filter_map(device));
    Ok(details)
}

/// The members of an object as entries, without those named `except`.
fn members(value: &Value, except: &[&str]) -> Vec<String> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !except.contains(&key.as_str()))
        .map(|(key, value)| format!("{key}={}", plain(value)))
        .collect()
}

/// A memory device. What a virtio-mem has plugged in changes as it runs.
fn device(device: &Value) -> Option<GuestProperty> {
    let kind = device["type"].as_str()?;
    let data = &device["data"];
    let address = data["addr"].as_u64().or_else(|| data["memaddr"].as_u64())?;
    let entries = ["slot", "node", "max-size", "block"].into_iter();
    let mut entries: Vec<String> = entries
        .filter_map(|key| Some(format!("{key}={}", data[key].as_u64()?)))
        .collect();
    if !kind.starts_with("virtio-mem") {
        entries.push(format!("size={}", data["size"].as_u64()?));
    }
    entries.insert(0, kind.to_owned());
    Some(GuestProperty::detail(
        format!("memory device at {address:#x}"),
        entries,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn memory_devices_of_qemu_10() {
        let dimm = json!({ "type": "dimm", "data": {
            "memdev": "/objects/m1", "hotplugged": true, "addr": 4_294_967_296_u64,
            "hotpluggable": true, "size": 134_217_728, "slot": 0, "node": 0, "id": "d1" } });
        let dimm = device(&dimm).unwrap();
        assert_eq!(dimm.name, "memory device at 0x100000000");
        assert_eq!(dimm.value, "dimm\nslot=0\nnode=0\nsize=134217728");
        let mem = json!({ "type": "virtio-mem", "data": {
            "memaddr": 4096, "max-size": 8, "size": 4, "requested-size": 4, "block": 2 } });
        assert_eq!(
            device(&mem).unwrap().value,
            "virtio-mem\nmax-size=8\nblock=2"
        );
    }

    #[test]
    fn topology_has_an_entry_for_each_level() {
        let smp = json!({ "cpus": 2, "sockets": 2, "maxcpus": 4 });
        assert_eq!(members(&smp, &["cpus"]), ["maxcpus=4", "sockets=2"]);
    }
}
