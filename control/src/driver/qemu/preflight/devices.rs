//! Devices that write guest memory past QEMU's page tables.
//!
//! Tracking sees what is written through the page tables of QEMU's process: vCPUs, QEMU's own
//! devices, the kernel's vhost-net. It does not see other processes that map the same memory
//! (vhost-user, ivshmem) nor hardware that writes to it (VFIO, vDPA), so such a page would arrive
//! with old content.

use crate::driver::Refusal;
use crate::driver::qemu::backend;
use crate::qmp::{Qmp, QmpError};

/// Starts of type names, who writes behind QEMU's back, and the way out.
const TYPES: [(&str, &str, &str); 7] = [
    (
        "ivshmem-",
        "other processes write the memory it shares, and QEMU takes no such guest whose memory is left \
         to others (\"Mismatched GPAs\")",
        "unplug it (device_del) before, and plug it in at the target",
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
];

/// As [`TYPES`], for the network back ends of `info network`.
const NETDEVS: [(&str, &str); 2] = [
    (
        "vhost-user",
        "another process writes guest memory, and QEMU hands its dirty log to no one",
    ),
    ("vhost-vdpa", "hardware writes guest memory"),
];

pub(super) fn check(qmp: &Qmp) -> Result<Vec<Refusal>, QmpError> {
    let mut refusals = Vec::new();
    for (path, kind) in backend::of_type(qmp, |_| true)? {
        refusals.extend(check_device(name_of(&path), &kind));
    }
    refusals.extend(check_network(&qmp.human("info network")?));
    Ok(refusals)
}

/// What a device is called by its path.
pub(super) fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn check_device(name: &str, kind: &str) -> Option<Refusal> {
    let (_, reason, remedy) = TYPES.iter().find(|(start, ..)| kind.starts_with(start))?;
    Some(Refusal::new(
        format!("device {name} ({kind}) cannot be tracked: {reason}"),
        *remedy,
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
            "virtio-mem-pci",
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
