//! Memory that cannot be moved from outside QEMU.

use serde_json::{Value, json};

use crate::driver::qemu::backend::Backend;
use crate::driver::qemu::inspect::Guest;
use crate::driver::{Refusal, Side};
use crate::qmp::{Qmp, QmpError};

pub(super) fn check(qmp: &Qmp, guest: &Guest, side: Side) -> Result<Vec<Refusal>, QmpError> {
    let mut refusals = Vec::new();
    if guest.ram.is_empty() {
        refusals.push(Refusal::new(
            "the guest has no RAM from a memory backend",
            "start it with `pagelift run -- qemu-system-x86_64 ...`",
        ));
    }
    let plugged = plugged(&qmp.execute("query-memory-devices", Value::Null)?);
    let backends = guest
        .ram
        .iter()
        .filter_map(|block| guest.backend_of(&block.name));
    refusals.extend(backends.filter_map(|backend| {
        let device = plugged.iter().find(|(id, _)| *id == backend.id);
        check_backend(backend, device.map(|(_, device)| device.as_str()), side)
    }));
    let persistent = guest.backends.iter().filter(|b| guest.is_persistent(b));
    refusals.extend(persistent.filter_map(check_persistent));
    // Encrypted memory cannot be read, let alone moved, from outside the guest.
    let property = json!({ "path": "/machine", "property": "confidential-guest-support" });
    match qmp.execute("qom-get", property) {
        Ok(link) if link.as_str().is_some_and(|link| !link.is_empty()) => {
            refusals.push(Refusal::new(
                "the guest's memory is encrypted (confidential-guest-support)",
                "only guests without SEV, TDX and the like can be moved",
            ));
        }
        // Unknown to older versions.
        Ok(_) | Err(QmpError::Refused { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(refusals)
}

/// Ids of the backends of memory devices, each with the name of its device.
fn plugged(devices: &Value) -> Vec<(String, String)> {
    let device = |device: &Value| {
        let data = &device["data"];
        let backend = data["memdev"].as_str()?.rsplit('/').next()?;
        let name = data["id"].as_str().unwrap_or("without an id");
        Some((backend.to_owned(), name.to_owned()))
    };
    let devices = devices.as_array().into_iter().flatten();
    devices.filter_map(device).collect()
}

/// `device`: the memory device that it is behind, if it is no RAM of the machine's own.
fn check_backend(backend: &Backend, device: Option<&str>, side: Side) -> Option<Refusal> {
    let Backend {
        id,
        kind,
        bytes,
        share,
        ..
    } = backend;
    if backend.readonly {
        return Some(Refusal::new(
            format!("memory backend {id} is read-only, and its content can be put into no target"),
            "such memory is storage: give it to an nvdimm device (unarmed=on) whose file both hosts \
             have, or unplug it first",
        ));
    }
    if backend.is_left_alone() {
        return None;
    }
    let share = if *share { "on" } else { "off" };
    let object =
        format!("memory-backend-file,id={id},size={bytes},mem-path=/dev/shm/{id},share=on");
    let by_qemu = "a guest that must go on as it is can be moved by QEMU itself to such a QEMU on this \
                   host (QMP 'migrate'), and on from there by pagelift";
    let remedy = match (side, device) {
        (Side::Target, _) => {
            format!("start the target with `pagelift run -- ...`, or with -object {object}")
        }
        (Side::Source, Some(device)) => format!(
            "unplug memory device {device} (device_del), and plug memory in from -object {object}; \
             {by_qemu}"
        ),
        (Side::Source, None) => format!(
            "start the guest with `pagelift run -- ...`, or with -object {object} -machine \
             memory-backend={id}; {by_qemu}"
        ),
    };
    Some(Refusal::new(
        format!(
            "memory backend {id} is {kind} with share={share}, which only QEMU can move: of all memory it \
             leaves to others that of memory-backend-file with share=on alone"
        ),
        remedy,
    ))
}

/// Whether persistent memory can be left alone, or copied: if all that the guest writes is in its file.
fn check_persistent(backend: &Backend) -> Option<Refusal> {
    let Backend {
        id,
        kind,
        share,
        readonly,
        ..
    } = backend;
    if backend.is_left_alone() {
        return None;
    }
    let on = |flag: bool| if flag { "on" } else { "off" };
    Some(Refusal::new(
        format!(
            "persistent memory {id} is {kind} with share={} and readonly={}",
            on(*share),
            on(*readonly)
        ),
        "such memory is moved only with memory-backend-file and share=on; else unplug it first",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_devices_are_known_by_their_backends() {
        let dimm =
            |id: Value| json!([{ "type": "dimm", "data": { "memdev": "/objects/m1", "id": id } }]);
        let pair = |name: &str| vec![("m1".to_owned(), name.to_owned())];
        assert_eq!(plugged(&dimm(json!("dimm1"))), pair("dimm1"));
        assert_eq!(plugged(&dimm(Value::Null)), pair("without an id"));
        assert_eq!(plugged(&json!([])), []);
    }

    #[test]
    fn only_shared_files_pass() {
        let file = Backend {
            id: "m0".into(),
            kind: "memory-backend-file".into(),
            bytes: 1 << 30,
            share: true,
            path: Some("/dev/shm/m0".into()),
            pmem: false,
            readonly: false,
            discards_data: false,
        };
        assert_eq!(check_backend(&file, None, Side::Source), None);
        let private = Backend {
            share: false,
            ..file.clone()
        };
        let refusal = check_backend(&private, None, Side::Source).unwrap();
        assert!(
            refusal
                .reason
                .contains("m0 is memory-backend-file with share=off")
        );
        assert!(
            refusal
                .remedy
                .contains("size=1073741824,mem-path=/dev/shm/m0,share=on")
        );
        let target = check_backend(&private, Some("dimm1"), Side::Target).unwrap();
        assert!(
            target
                .remedy
                .starts_with("start the target with `pagelift run")
        );
        let plugged = check_backend(&private, Some("dimm1"), Side::Source).unwrap();
        assert!(
            plugged
                .remedy
                .starts_with("unplug memory device dimm1 (device_del)")
        );
        let memfd = Backend {
            kind: "memory-backend-memfd".into(),
            ..file.clone()
        };
        assert!(check_backend(&memfd, None, Side::Source).is_some());
        let readonly = Backend {
            readonly: true,
            discards_data: false,
            ..file.clone()
        };
        assert!(check_backend(&readonly, None, Side::Source).is_some());
        let persistent = Backend { pmem: true, ..file };
        for usable in [persistent, readonly] {
            assert_eq!(check_persistent(&usable), None);
        }
        for unusable in [private, memfd] {
            let refusal = check_persistent(&unusable).unwrap();
            assert!(refusal.reason.contains("persistent memory m0"));
        }
    }
}
