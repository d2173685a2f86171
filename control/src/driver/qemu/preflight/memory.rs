//! Memory that cannot be moved from outside QEMU.

use serde_json::json;

use crate::driver::Refusal;
use crate::driver::qemu::backend::Backend;
use crate::driver::qemu::inspect::Guest;
use crate::qmp::{Qmp, QmpError};

pub(super) fn check(qmp: &Qmp, guest: &Guest) -> Result<Vec<Refusal>, QmpError> {
    let mut refusals = Vec::new();
    if guest.ram.is_empty() {
        refusals.push(Refusal::new(
            "the guest has no RAM from a memory backend",
            "start it with `pagelift run -- qemu-system-x86_64 ...`",
        ));
    }
    let backends = guest
        .ram
        .iter()
        .filter_map(|block| guest.backend_of(&block.name));
    refusals.extend(backends.filter_map(check_backend));
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

fn check_backend(backend: &Backend) -> Option<Refusal> {
    let Backend {
        id,
        kind,
        bytes,
        share,
        ..
    } = backend;
    if backend.readonly {
        return Some(Refusal::new(
            format!("memory backend {id} is read-only"),
            "such memory is storage: share or copy it as you do with disks, and unplug it first",
        ));
    }
    if backend.is_shared_file() {
        return None;
    }
    let share = if *share { "on" } else { "off" };
    Some(Refusal::new(
        format!("memory backend {id} is {kind} with share={share}, which only QEMU can see"),
        format!(
            "start the guest with `pagelift run -- ...`, or with -object memory-backend-file,\
             id={id},size={bytes},mem-path=/dev/shm/{id},share=on -machine memory-backend={id}"
        ),
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
    if backend.is_shared_file() {
        return None;
    }
    let on = |flag: bool| if flag { "on" } else { "off" };
    Some(Refusal::new(
        format!(
            "persistent memory {id} is {kind} with share={} and readonly={}",
            on(*share),
            on(*readonly)
        ),
        "such memory is moved only with memory-backend-file, share=on and readonly=off; else unplug it \
         first",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        };
        assert_eq!(check_backend(&file), None);
        let private = Backend {
            share: false,
            ..file.clone()
        };
        let refusal = check_backend(&private).unwrap();
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
        let memfd = Backend {
            kind: "memory-backend-memfd".into(),
            ..file.clone()
        };
        assert!(check_backend(&memfd).is_some());
        let readonly = Backend {
            readonly: true,
            ..file.clone()
        };
        assert!(check_backend(&readonly).is_some());
        let persistent = Backend { pmem: true, ..file };
        assert_eq!(check_persistent(&persistent), None);
        for unusable in [private, memfd, readonly] {
            let refusal = check_persistent(&unusable).unwrap();
            assert!(refusal.reason.contains("persistent memory m0"));
        }
    }
}
