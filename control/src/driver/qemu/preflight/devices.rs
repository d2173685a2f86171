//! Devices that write guest memory past QEMU's page tables.
//!
//! Tracking sees what is written through the page tables of QEMU's process: vCPUs, QEMU's own
//! devices, the kernel's vhost-net. It does not see other processes that map the same memory
//! (vhost-user, ivshmem) nor hardware that writes to it (VFIO, vDPA), so such a page would arrive
//! with old content.

use serde_json::{Value, json};

use crate::driver::Refusal;
use crate::driver::qemu::backend;
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
        "another process writes guest memory",
        "use a device that QEMU itself runs",
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
    ("vhost-user", "another process writes guest memory"),
    ("vhost-vdpa", "hardware writes guest memory"),
];

pub(super) fn check(qmp: &Qmp) -> Result<Vec<Refusal>, QmpError> {
    let mut refusals = Vec::new();
    for container in CONTAINERS {
        for (name, kind) in backend::children(qmp, container)? {
            refusals.extend(check_device(&name, &kind));
            if kind.starts_with("virtio-balloon") {
                refusals.extend(check_balloon(qmp, container, &name));
            }
        }
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

/// A page that the guest reports as free becomes a hole, which tracking does not see. A guest that
/// clears pages when it frees them expects zeros when it takes them back; the target would have
/// the old content.
fn check_balloon(qmp: &Qmp, container: &str, name: &str) -> Option<Refusal> {
    let arguments =
        json!({ "path": format!("{container}/{name}"), "property": "free-page-reporting" });
    // A board's wrapper of the device may not have the property; the device itself does.
    let reporting = qmp.execute("qom-get", arguments).ok()?;
    (reporting == Value::Bool(true)).then(|| {
        Refusal::new(
            format!("device {name} reports free pages, and pages it gives back are not tracked"),
            "start the guest with free-page-reporting=off",
        )
    })
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
    fn network_of_qemu_10() {
        let listing = "k: index=0,type=socket,\n\
                       virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00\n \
                       \\ n: index=0,type=vhost-user,chardev=c\n";
        let refusals = check_network(listing);
        assert_eq!(refusals.len(), 1);
        assert!(refusals[0].reason.starts_with("netdev n (vhost-user)"));
    }
}
