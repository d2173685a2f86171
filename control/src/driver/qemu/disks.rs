//! Disks that go past the host's page cache, and how they are made to go through it for the time
//! of a migration.
//!
//! A read with O_DIRECT pins the guest's pages when the request starts, and the disk writes to
//! them by DMA when it gets there. The page's dirty mark is taken at the pin: if the page is
//! harvested and sent in between, neither userfaultfd's write protection nor soft-dirty ever
//! reports what the disk wrote. Reads through the page cache are copied by the CPU, and are seen.
//!
//! QEMU can change the way of an open disk: it finishes the requests under way, changes the
//! open file and goes on. The human monitor's `qemu-io NODE "reopen -o cache.direct=off"` keeps all
//! other options, and takes nodes without a name of their own (`-drive`); QMP's `blockdev-reopen`
//! refuses both. What came of it is read back from QEMU.
//!
//! Whether that is right for a disk only its owner knows: another host that writes the same disk
//! (`share-rw=on`) would not be seen through a page cache. So it is done only when asked for.

use pagelift_agent_protocol::{Name, RollbackStep};
use pagelift_engine::plain_text;
use serde_json::{Value, json};

use crate::qmp::{Qmp, QmpError};

/// Block drivers that open a file or device of this host, for which `cache.direct` is O_DIRECT.
const HOST_FILES: [&str; 3] = ["file", "host_cdrom", "host_device"];

/// An open disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// Name of its node in QEMU's block graph.
    pub(super) node: String,
    /// Block driver.
    pub(super) driver: String,
    /// What QEMU opened.
    pub(super) file: String,
    /// Whether it is a file or device of this host that is read past the page cache.
    pub(super) is_direct: bool,
}

/// All disks, one for each node of QEMU's block graph.
pub(super) fn list(qmp: &Qmp) -> Result<Vec<Disk>, QmpError> {
    let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true }))?;
    let nodes = nodes.as_array().into_iter().flatten();
    Ok(nodes.filter_map(disk).collect())
}

pub(super) fn disk(node: &Value) -> Option<Disk> {
    let driver = node["drv"].as_str()?;
    let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
    Some(Disk {
        node: text("node-name"),
        driver: driver.to_owned(),
        file: text("file"),
        is_direct: HOST_FILES.contains(&driver) && node["cache"]["direct"] == true,
    })
}

/// Why a disk does not go the way it should.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// QEMU did not do it.
    #[error(
        "disk {file} (node {node}) does not change to cache.direct={direct}: {reason}; \
         set it by QEMU's blockdev-reopen"
    )]
    Refused {
        /// What QEMU opened.
        file: String,
        /// Name of its node.
        node: String,
        /// Which way it should go.
        direct: &'static str,
        /// QEMU's words.
        reason: String,
    },
    /// QEMU did not answer.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

/// Disks that go through the page cache for a while. When dropped, they go past it again.
#[derive(Debug)]
pub(super) struct Buffered {
    qmp: Qmp,
    nodes: Vec<String>,
}

impl Buffered {
    /// All disks that go past the page cache; nothing is changed yet.
    pub(super) fn plan(qmp: &Qmp) -> Result<Self, QmpError> {
        let disks = list(qmp)?.into_iter().filter(|disk| disk.is_direct);
        Ok(Self::of(qmp, disks.map(|disk| disk.node).collect()))
    }

    /// Makes them go through the page cache.
    pub(super) fn begin(&self) -> Result<(), DiskError> {
        self.nodes
            .iter()
            .try_for_each(|node| change(&self.qmp, node, false))
    }

    /// Disks with the nodes `nodes` that have been changed before.
    pub(super) fn of(qmp: &Qmp, nodes: Vec<String>) -> Self {
        Self {
            qmp: qmp.clone(),
            nodes,
        }
    }

    /// Makes them go past the page cache again.
    pub(super) fn end(mut self) -> Result<(), DiskError> {
        let nodes = std::mem::take(&mut self.nodes);
        let changes = nodes.iter().map(|node| change(&self.qmp, node, true));
        // All are tried; the first error is the one to tell.
        changes.fold(Ok(()), Result::and)
    }

    /// The same, for the agent to do. A node whose name it would not take has none: QEMU makes
    /// names of letters, digits and `-._#`.
    pub(super) fn end_steps(&self) -> Vec<RollbackStep> {
        let names = self.nodes.iter().filter_map(|node| Name::new(node).ok());
        names.map(RollbackStep::DirectDisk).collect()
    }

    /// QEMU has given the guest up, and its disks are not to be touched any more. Their nodes, in
    /// case that the guest comes back.
    pub(super) fn give_up(mut self) -> Vec<String> {
        std::mem::take(&mut self.nodes)
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        for node in &self.nodes {
            // Nobody is left to be told; a disk that is read through the page cache works.
            let _untold = change(&self.qmp, node, true);
        }
    }
}

/// The human monitor's command.
fn reopen(node: &str, direct: bool) -> String {
    let direct = on_or_off(direct);
    format!("qemu-io {node} \"reopen -o cache.direct={direct}\"")
}

fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn change(qmp: &Qmp, node: &str, direct: bool) -> Result<(), DiskError> {
    let output = qmp.human(&reopen(node, direct))?;
    let now = list(qmp)?.into_iter().find(|disk| disk.node == node);
    match now {
        Some(disk) if disk.is_direct == direct => Ok(()),
        disk => Err(DiskError::Refused {
            file: disk.map_or_else(String::new, |disk| plain_text::line(&disk.file)),
            node: node.to_owned(),
            direct: on_or_off(direct),
            reason: match output.trim() {
                "" => "QEMU gave no reason".to_owned(),
                reason => plain_text::line(reason),
            },
        }),
    }
}
