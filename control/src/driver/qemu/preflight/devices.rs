//! Devices that write guest memory past QEMU's page tables.
//!
//! Tracking sees what is written through the page tables of QEMU's process: vCPUs, QEMU's own
//! devices, the kernel's vhost-net. It does not see other processes that map the same memory
//! (vhost-user, ivshmem) nor hardware that writes to it (VFIO, vDPA), so such a page would arrive
//! with old content.

use serde_json::{Value, json};

use crate::driver::Refusal;
use crate::driver::qemu::backend;
use crate::driver::qemu::inspect::Guest;
use crate::driver::qemu::ramblock::Listed;
use crate::qmp::{Qmp, QmpError};

/// Where QEMU keeps its devices: with an id, without one, and made by the board or by -drive.
const CONTAINERS: [&str; 3] = [
    "/machine/peripheral",
    "/machine/peripheral-anon",
    "/machine/unattached",
];

/// Starts of type names, who writes behind QEMU's back, and the way out.
const TYPES: [(&str, &str, &str); 8] = [
    (
        "ivshmem-",
        "other processes write the memory it shares",
        "unplug it before",
    ),
    (
        "scsi-block",
        "SG_IO requests write to pinned pages",
        "use scsi-hd instead",
    ),
    (
        "scsi-generic",
        "SG_IO requests write to pinned pages",
        "use scsi-hd instead",
    ),
    (
        "vfio-",
        "hardware writes guest memory",
        "unplug it before, and plug one in on the target",
    ),
    (
        "vhost-scsi",
        "the kernel writes to pinned pages",
        "use virtio-scsi instead",
    ),
    (
        "vhost-user-",
        "another process writes guest memory, and QEMU hands its dirty log to no one",
        "unplug it before and plug it in on the target, or use a device that QEMU itself runs",
    ),
    (
        "vhost-vdpa-",
        "hardware writes guest memory",
        "use a device that QEMU itself runs",
    ),
    (
        "virtio-mem",
        "it plugs and unplugs RAM while it is being copied",
        "unplug it before",
    ),
];

/// As [`TYPES`], for the network back ends of `info network`.
const NETDEVS: [(&str, &str); 2] = [
    (
        "vhost-user",
        "another process writes guest memory, and QEMU hands its dirty log to no one",
    ),
    ("vhost-vdpa", "hardware writes guest memory"),
];

pub(super) fn check(qmp: &Qmp, guest: &Guest) -> Result<Vec<Refusal>, QmpError> {
    let mut refusals = Vec::new();
    for container in CONTAINERS {
        for (name, kind) in backend::children(qmp, container)? {
            refusals.extend(check_device(&name, &kind));
        }
    }
    if let Some(name) = reports_free_pages(qmp)? {
        refusals.extend(check_discards(&name, &guest.ram));
    }
    refusals.extend(check_network(&qmp.human("info network")?));
    Ok(refusals)
}

fn check_device(name: &str, kind: &str) -> Option<Refusal> {
    let (_, reason, remedy) = TYPES.iter().find(|(start, ..)| kind.starts_with(start))?;
    Some(Refusal::new(
        format!("device {name} ({kind}) cannot be tracked: {reason}"),
        *remedy,
    ))
}

/// The name of a balloon by which the guest reports free pages, if it has one. QEMU discards such
/// pages: they become holes in the RAM file, and the guest may rely on their being zero.
///
/// # Errors
/// As QMP's.
pub fn reports_free_pages(qmp: &Qmp) -> Result<Option<String>, QmpError> {
    for container in CONTAINERS {
        for (name, kind) in backend::children(qmp, container)? {
            if !kind.starts_with("virtio-balloon") {
                continue;
            }
            let path = format!("{container}/{name}");
            let arguments = json!({ "path": path, "property": "free-page-reporting" });
            match qmp.execute("qom-get", arguments) {
                Ok(Value::Bool(true)) => return Ok(Some(name)),
                // A board's wrapper of the device may not have the property; the device itself does.
                Ok(_) | Err(QmpError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(None)
}

/// Holes can be told in memory of ordinary pages only.
fn check_discards(balloon: &str, ram: &[Listed]) -> Option<Refusal> {
    let huge = ram.iter().find(|block| block.page_bytes > 4096)?;
    Some(Refusal::new(
        format!(
            "device {balloon} reports free pages, and which of them were given back cannot be told \
             in RAM block {} of huge pages",
            huge.name
        ),
        "start the guest with free-page-reporting=off",
    ))
}

/// The human monitor has a line such as ` \ n0: index=0,type=vhost-user,...` for each back end.
fn check_network(listing: &str) -> Vec<Refusal> {
    let check = |line: &str| {
        let (name, rest) = line.split_once(": ")?;
        let kind = rest
            .split(',')
            .find_map(|part| part.strip_prefix("type="))?;
        let (_, reason) = NETDEVS.iter().find(|(netdev, _)| *netdev == kind)?;
        let name = name.trim_start_matches([' ', '\\']);
        Some(Refusal::new(
            format!("netdev {name} ({kind}) cannot be tracked: {reason}"),
            "use a netdev that QEMU or vhost-net serves (tap, bridge, user, passt, socket)",
        ))
    };
    listing.lines().filter_map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        for kind in [
            "vfio-pci",
            "vhost-user-blk-pci",
            "vhost-vdpa-device-pci",
            "ivshmem-plain",
        ] {
            let refusal = check_device("d0", kind).unwrap();
            assert!(refusal.reason.starts_with(&format!("device d0 ({kind})")));
        }
        for kind in [
            "virtio-net-pci",
            "virtio-balloon-pci",
            "vhost-vsock-pci",
            "scsi-hd",
            "VGA",
        ] {
            assert_eq!(check_device("d0", kind), None);
        }
    }

    #[test]
    fn free_pages_may_be_reported_where_holes_can_be_told() {
        let block = |page_bytes| Listed {
            name: "pc.ram".into(),
            page_bytes,
            used_bytes: 1 << 30,
            total_bytes: 1 << 30,
            address: 0,
        };
        assert_eq!(check_discards("b0", &[block(4096)]), None);
        let refusal = check_discards("b0", &[block(4096), block(2 << 20)]).unwrap();
        assert!(refusal.reason.starts_with("device b0 reports free pages"));
    }

    #[test]
    fn network_of_qemu_10() {
        let listing = "k: index=0,type=socket,\n\
                       virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00\n \
                       \\ n: index=0,type=vhost-user,chardev=c\n";
        let refusals = check_network(listing);
        assert_eq!(refusals.len(), 1);
        assert!(refusals[0].reason.starts_with("netdev n (vhost-user)"));
    }
}
