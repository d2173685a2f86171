//! Disks that write guest memory after it was marked dirty.
//!
//! A read with O_DIRECT pins the guest's pages when the request starts, and the disk writes to
//! them by DMA when it gets there. The page's dirty mark is taken at the pin: if the page is
//! harvested and sent in between, neither userfaultfd's write protection nor soft-dirty ever
//! reports what the disk wrote. Reads through the page cache are copied by the CPU, and are seen.

use serde_json::Value;

use super::Refusal;
use crate::qmp::{Qmp, QmpError};

/// Block drivers that open a file or device of this host, for which `cache.direct` is O_DIRECT.
const HOST_FILES: [&str; 3] = ["file", "host_cdrom", "host_device"];

/// Block drivers that hand guest memory to hardware or to another process in any case.
const BYPASSING: [&str; 5] = [
    "nvme",
    "nvme-io_uring",
    "virtio-blk-vfio-pci",
    "virtio-blk-vhost-user",
    "virtio-blk-vhost-vdpa",
];

pub(super) fn check(qmp: &Qmp) -> Result<Vec<Refusal>, QmpError> {
    let nodes = qmp.execute(
        "query-named-block-nodes",
        serde_json::json!({ "flat": true }),
    )?;
    Ok(nodes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(check_node)
        .collect())
}

fn check_node(node: &Value) -> Option<Refusal> {
    let driver = node["drv"].as_str()?;
    let name = node["node-name"].as_str().unwrap_or_default();
    let file = node["file"].as_str().unwrap_or_default();
    let disk = format!("disk {file} (node {name}, driver {driver})");
    if BYPASSING.contains(&driver) {
        return Some(Refusal::new(
            format!("{disk} lets others write guest memory, which cannot be tracked"),
            "attach it through the host's page cache (driver file or host_device)",
        ));
    }
    (HOST_FILES.contains(&driver) && node["cache"]["direct"] == true).then(|| {
        Refusal::new(
            format!(
                "{disk} bypasses the page cache: its DMA may reach a page of the guest after the \
                 page was sent, and nothing reports that"
            ),
            "use cache=writeback (cache.direct=off, and aio=threads or io_uring instead of native)",
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(driver: &str, direct: bool) -> Value {
        let cache = json!({ "direct": direct, "writeback": true, "no-flush": false });
        json!({ "drv": driver, "node-name": "d0", "file": "/x.img", "cache": cache })
    }

    #[test]
    fn direct_host_files_are_refused() {
        let refusal = check_node(&node("file", true)).unwrap();
        assert!(
            refusal
                .reason
                .starts_with("disk /x.img (node d0, driver file) bypasses")
        );
        assert!(refusal.remedy.contains("cache.direct=off"));
        assert!(check_node(&node("host_device", true)).is_some());
        assert!(check_node(&node("nvme", false)).is_some());
        // The format above the file only repeats the flag; network drivers have no O_DIRECT.
        for (driver, direct) in [
            ("file", false),
            ("qcow2", true),
            ("nbd", true),
            ("rbd", true),
        ] {
            assert_eq!(check_node(&node(driver, direct)), None);
        }
    }
}
