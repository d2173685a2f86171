//! Inspection of a guest: its machine, its state, and its memory.
//!
//! Looking changes nothing in QEMU. Whether the guest can move is for
//! [`preflight`](super::preflight) to say; here even a guest that cannot is described.

use std::fmt;
use std::fs::File;
use std::io;

use pagelift_engine::wire::GuestProperty;
use serde_json::{Value, json};

use super::backend::{self, Backend};
use super::maps::{self, Access};
use super::{guest_abi, held, ramblock};
use crate::qmp::{Qmp, QmpError};

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    /// 10 of 10.0.2.
    pub major: u64,
    /// 0 of 10.0.2.
    pub minor: u64,
    /// 2 of 10.0.2.
    pub micro: u64,
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A guest, as its QEMU describes it.
#[derive(Clone, Debug)]
pub struct Guest {
    /// QEMU's process id.
    pub pid: u32,
    /// QEMU's version.
    pub version: QemuVersion,
    /// Machine type with its alias resolved, such as `pc-i440fx-10.0`.
    pub machine: String,
    /// `kvm`, or `tcg` for all else.
    pub accelerator: &'static str,
    /// Run state (`query-status`): `running`, `paused`, `inmigrate`, ...
    pub run_state: String,
    /// Memory backends, used or not, sorted by id.
    pub backends: Vec<Backend>,
    /// Ids of the backends of persistent memory.
    pub persistent: Vec<String>,
    /// RAM blocks that come from another memory backend: the engine moves these. Sorted by name.
    pub ram: Vec<ramblock::Listed>,
    /// RAM blocks that QEMU moves by itself: video RAM, firmware, ROMs. Sorted by name.
    pub device_blocks: Vec<DeviceBlock>,
    /// The machine as the guest sees it.
    pub abi: Vec<GuestProperty>,
}

/// A RAM block that QEMU moves by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceBlock {
    /// Its name in the migration stream.
    pub name: String,
    /// Length it may grow to, in bytes; what is in use may differ between two QEMUs.
    pub bytes: u64,
}

/// A RAM block that the engine moves, with the file behind it.
#[derive(Debug)]
pub struct RamBlock {
    /// Its name, the same on both sides.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Size of the pages behind it, in bytes: 4096, or that of huge pages.
    pub page_bytes: u64,
    /// Where it is in QEMU's address space.
    pub address: u64,
    /// The file, open for reading and writing.
    pub file: File,
    /// Where in the file it starts, in bytes.
    pub file_offset: u64,
    /// Id of its memory backend.
    pub backend_id: String,
}

/// Why a guest could not be described, or its memory not be opened.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// QEMU did not tell.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The list of RAM blocks has another form than expected.
    #[error(transparent)]
    Ramblock(#[from] ramblock::UnknownLine),
    /// `/proc/PID` may not be read, or a RAM file not be opened.
    #[error(
        "RAM of QEMU's process {pid}: {what}: {source}; run pagelift as QEMU's own user, in its \
         pid and user namespace (a QEMU that changed its user by itself cannot be looked into: \
         start it as that user)"
    )]
    Process {
        /// The process.
        pid: u32,
        /// What was to be read or opened.
        what: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// QEMU is another user's.
    #[error(
        "QEMU's process {pid} belongs to user {owner}, and this program runs as user {own}: run \
         it as user {owner}, for instance by `setpriv --reuid={owner} --regid={owner} \
         --init-groups` or by a systemd unit; root moves QEMUs of root alone"
    )]
    OtherUser {
        /// The process.
        pid: u32,
        /// Its user.
        owner: u32,
        /// Ours.
        own: u32,
    },
    /// A file that both QEMUs have would be emptied by the one that ends first.
    #[error(
        "memory backend {0} has discard-data=on: QEMU would empty its file when it ends, also while the \
         other QEMU runs the guest in it; start both QEMUs without it"
    )]
    DiscardsData(String),
    /// QEMU's list and the process's mappings do not agree.
    #[error(
        "RAM block {block}: process {pid} has no shared file mapped for writing at {address:#x}; if QEMU runs \
         in another pid namespace, run pagelift inside it; else start it with share=on"
    )]
    NotMapped {
        /// The block's name.
        block: String,
        /// The process that was looked into.
        pid: u32,
        /// Where QEMU says the block is.
        address: u64,
    },
}

impl Guest {
    /// Asks QEMU all about the guest, by some 100 commands.
    ///
    /// # Errors
    /// When QEMU does not answer, or its process cannot be found.
    pub fn inspect(qmp: &Qmp) -> Result<Self, InspectError> {
        let pid = qmp.peer_pid()?;
        check_owner(pid)?;
        let version = qmp.execute("query-version", Value::Null)?;
        let part = |name: &str| version["qemu"][name].as_u64().unwrap_or(0);
        let version = QemuVersion {
            major: part("major"),
            minor: part("minor"),
            micro: part("micro"),
        };
        let machine = text(
            qmp,
            "qom-get",
            json!({ "path": "/machine", "property": "type" }),
            "",
        )?;
        let kvm = qmp.execute("query-kvm", Value::Null)?;
        let backends = backend::list(qmp)?;
        let persistent = backend::persistent(qmp, &backends)?;
        let mut listed = ramblock::parse(&qmp.human("info ramblock")?)?;
        listed.retain(|block| !backend::is_persistent_block(&block.name, &backends, &persistent));
        let (ram, others): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|block| backends.iter().any(|b| b.is_block(&block.name)));
        let device_blocks = others.into_iter().map(|block| DeviceBlock {
            name: block.name,
            bytes: block.total_bytes,
        });
        Ok(Self {
            pid,
            version,
            machine: machine
                .strip_suffix("-machine")
                .unwrap_or(&machine)
                .to_owned(),
            accelerator: if kvm["enabled"] == true { "kvm" } else { "tcg" },
            run_state: run_state(qmp)?,
            backends,
            persistent,
            ram,
            device_blocks: device_blocks.collect(),
            abi: guest_abi::details(qmp)?,
        })
    }

    /// The memory backend behind a RAM block.
    pub fn backend_of(&self, block: &str) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.is_block(block))
    }

    /// Finds and opens the files of the RAM that the engine moves, in the order of [`Self::ram`].
    ///
    /// # Errors
    /// When a block is no shared file mapping of QEMU's process, or may not be opened.
    pub fn open_ram(&self) -> Result<Vec<RamBlock>, InspectError> {
        let pid = self.pid;
        let process = |what: String| move |source| InspectError::Process { pid, what, source };
        let mappings = maps::read(pid).map_err(process("its memory map".into()))?;
        let open = |block: &ramblock::Listed| {
            let range = maps::find(
                &mappings,
                block.address,
                block.used_bytes,
                Access::ReadWrite,
            );
            let range = range.ok_or_else(|| InspectError::NotMapped {
                block: block.name.clone(),
                pid,
                address: block.address,
            })?;
            let file = held::open(pid, &range.mapping).map_err(process(format!(
                "block {} ({})",
                block.name, range.mapping.name
            )))?;
            Ok(RamBlock {
                name: block.name.clone(),
                bytes: block.used_bytes,
                page_bytes: block.page_bytes,
                address: block.address,
                file,
                file_offset: range.file_offset,
                backend_id: self
                    .backend_of(&block.name)
                    .map_or_else(String::new, |b| b.id.clone()),
            })
        };
        self.ram.iter().map(open).collect()
    }

    /// What must be equal on both sides, the machine as the guest sees it included.
    ///
    /// The accelerator is not among it: a guest may move from one to another as far as memory is
    /// concerned, and QEMU itself refuses device state that does not fit.
    pub fn properties(&self) -> Vec<GuestProperty> {
        let list = |blocks: Vec<(&str, u64)>| {
            let texts = blocks.iter().map(|(name, bytes)| format!("{name} {bytes}"));
            texts.collect::<Vec<_>>().join(", ")
        };
        let ram = self.ram.iter();
        let ram = ram.map(|b| (b.name.as_str(), b.used_bytes)).collect();
        let device = self.device_blocks.iter();
        let device = device.map(|b| (b.name.as_str(), b.bytes)).collect();
        let required = [
            GuestProperty::new("machine type", self.machine.clone()),
            GuestProperty::new("RAM blocks (bytes)", list(ram)),
            GuestProperty::new("device RAM blocks (bytes)", list(device)),
        ];
        required
            .into_iter()
            .chain(self.abi.iter().cloned())
            .collect()
    }
}

/// That the process `pid` acts as our own user.
///
/// Root could look into any, but what it then does on a QEMU's word it does with root's rights:
/// a QEMU that is not root's must not lend them (docs/decisions/071).
fn check_owner(pid: u32) -> Result<(), InspectError> {
    let own = rustix::process::geteuid().as_raw();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.map_err(|source| InspectError::Process {
        pid,
        what: "its status".into(),
        source,
    })?;
    match users(&status).find(|user| *user != own) {
        Some(owner) => Err(InspectError::OtherUser { pid, owner, own }),
        None => Ok(()),
    }
}

/// The uids in a `/proc/PID/status`: real, effective, saved, and that for files.
fn users(status: &str) -> impl Iterator<Item = u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.unwrap_or_default()
        .split_whitespace()
        .filter_map(|uid| uid.parse().ok())
}

/// QEMU's run state now.
///
/// # Errors
/// As QMP's.
pub fn run_state(qmp: &Qmp) -> Result<String, QmpError> {
    text(qmp, "query-status", Value::Null, "status")
}

/// The text that a command returns, or its member `key` if one is named.
fn text(qmp: &Qmp, command: &str, arguments: Value, key: &str) -> Result<String, QmpError> {
    let value = qmp.execute(command, arguments)?;
    let value = if key.is_empty() { &value } else { &value[key] };
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| QmpError::Unexpected {
            command: command.into(),
            missing: if key.is_empty() {
                "a text".into()
            } else {
                key.into()
            },
        })
}
