//! Disks that write guest memory after it was marked dirty: see [`disks`](crate::driver::qemu::disks).

use crate::driver::Refusal;
use crate::driver::qemu::disks::{self, Disk};
use crate::qmp::{Qmp, QmpError};

/// Block drivers that hand guest memory to hardware or to another process in any case.
const BYPASSING: [&str; 5] = [
    "nvme",
    "nvme-io_uring",
    "virtio-blk-vfio-pci",
    "virtio-blk-vhost-user",
    "virtio-blk-vhost-vdpa",
];

pub(super) fn check(qmp: &Qmp, buffer_disks: bool) -> Result<Vec<Refusal>, QmpError> {
    let disks = disks::list(qmp)?;
    let refusals = disks
        .iter()
        .filter_map(|disk| check_disk(disk, buffer_disks));
    Ok(refusals.collect())
}

fn check_disk(disk: &Disk, buffer_disks: bool) -> Option<Refusal> {
    let Disk {
        node, driver, file, ..
    } = disk;
    let name = format!("disk {file} (node {node}, driver {driver})");
    if BYPASSING.contains(&driver.as_str()) {
        return Some(Refusal::new(
            format!("{name} lets others write guest memory, which cannot be tracked"),
            "attach it through the host's page cache (driver file or host_device)",
        ));
    }
    (disk.is_direct && !buffer_disks).then(|| {
        Refusal::new(
            format!(
                "{name} bypasses the page cache: its DMA may reach a page of the guest after the \
                 page was sent, and nothing reports that"
            ),
            "send with --buffer-disks, by which QEMU reads it through the page cache until the \
             guest has moved (not if another host writes to it meanwhile)",
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(driver: &str, direct: bool, buffer: bool) -> Option<Refusal> {
        let cache = json!({ "direct": direct, "writeback": true, "no-flush": false });
        let node = json!({ "drv": driver, "node-name": "d0", "file": "/x.img", "cache": cache });
        check_disk(&disks::disk(&node).unwrap(), buffer)
    }

    #[test]
    fn direct_host_files_are_refused() {
        let file = refusal("file", true, false).unwrap();
        assert!(
            file.reason
                .starts_with("disk /x.img (node d0, driver file) bypasses")
        );
        assert!(file.remedy.contains("--buffer-disks"));
        assert!(refusal("host_device", true, false).is_some());
        assert_eq!(refusal("host_device", true, true), None);
        for buffer in [false, true] {
            assert!(refusal("nvme", false, buffer).is_some());
        }
        // The format above the file only repeats the flag; network drivers have no O_DIRECT.
        for (driver, direct) in [
            ("file", false),
            ("qcow2", true),
            ("nbd", true),
            ("rbd", true),
        ] {
            assert_eq!(refusal(driver, direct, false), None);
        }
    }
}
