//! Looking at a guest that is to leave, and preparing it.
//!
//! Nothing is changed before everything has been looked at, nor before the agent knows how to
//! undo it: a guest that is refused is as it was.

use std::sync::{Arc, Mutex};

use pagelift_engine::dirty::{DirtyError, PagemapTracker, TrackedRange};
use pagelift_engine::memory::FileMemory;
use pagelift_engine::sys::{PagemapScan, Userfaultfd};
use pagelift_engine::units::{PAGE_BYTES, PageRange};
use pagelift_engine::wire::Fact;
use rustix::process::Pid;
use tracing::info;

use super::{DirectSource, Step};
use crate::agent_client::{AgentClient, AgentError};
use crate::driver::qemu::direct::disk_errors::DiskErrors;
use crate::driver::qemu::direct::throttling::{self, ThrottleBy, Throttling};
use crate::driver::qemu::direct::watch::ProcessWatch;
use crate::driver::qemu::direct::{OpenMemoryError, facts, list, open_memory};
use crate::driver::qemu::inspect::RamBlock;
use crate::driver::qemu::source::SourceQemu;
use crate::driver::qemu::{QemuMigrationError, Refusal, preflight, vcpu_threads};
use crate::qmp::{Address, QmpError};
use crate::throttle::ThrottleError;

/// Which guest is to leave.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// QEMU's monitor.
    pub qmp: Address,
    /// Whether the guest is to stay when a disk of it fails and QEMU stops it for that.
    pub abort_on_error: bool,
    /// Whether to make disks that bypass the host's page cache go through it meanwhile; a guest
    /// with such disks is refused otherwise.
    pub buffer_disks: bool,
    /// Who throttles it when it must be.
    pub throttle_by: ThrottleBy,
}

/// Why a guest cannot leave. It runs on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be moved safely.
    #[error("this guest cannot be moved:{}", list(.0))]
    Refused(Vec<Refusal>),
    /// There is no way to see what it writes.
    #[error("{0}")]
    NoAgent(#[from] AgentError),
    /// The kernel cannot track it.
    #[error("dirty tracking: {0}")]
    Dirty(#[from] DirtyError),
    /// QEMU did not do what was asked.
    #[error(transparent)]
    Qemu(#[from] QemuMigrationError),
    /// Its RAM cannot be opened.
    #[error(transparent)]
    Memory(#[from] OpenMemoryError),
    /// It cannot be throttled in the way asked for.
    #[error(transparent)]
    Throttle(#[from] ThrottleError),
    /// It went away.
    #[error("QEMU: {0}")]
    Gone(std::io::Error),
    /// The monitor is no unix socket.
    #[error(
        "the monitor {0} is not a unix socket; descriptors must be passed over it: give QEMU \
         -qmp unix:PATH,server=on,wait=off and name that path"
    )]
    NotUnix(Address),
}

impl From<QmpError> for SourceError {
    fn from(error: QmpError) -> Self {
        Self::Qemu(error.into())
    }
}

/// A guest that can leave, with all that the engine needs.
#[derive(Debug)]
pub struct Prepared {
    /// Its RAM.
    pub memory: Arc<FileMemory>,
    /// What it writes.
    pub tracker: PagemapTracker,
    /// The guest.
    pub guest: DirectSource,
    /// What must be equal on both sides.
    pub facts: Vec<Fact>,
}

impl DirectSource {
    /// Looks at the guest, refuses what could not end well, and prepares the rest. Nothing of
    /// the guest is changed but QEMU's migration settings and, if asked for, the way of its disks,
    /// which are put back at the end.
    ///
    /// # Errors
    /// Says why the guest cannot leave, and what would help.
    pub fn prepare(options: &SourceOptions) -> Result<Prepared, SourceError> {
        let Address::Unix(path) = &options.qmp else {
            return Err(SourceError::NotUnix(options.qmp.clone()));
        };
        // The agent opens it by this name, from wherever QEMU was started.
        let qmp_path = std::path::absolute(path).map_err(SourceError::Gone)?;
        PagemapScan::probe().map_err(DirtyError::from)?;
        let source = SourceQemu::connect(&options.qmp)?;
        // Before the state is looked at: a guest that a disk has stopped already is refused.
        let disk_errors = options
            .abort_on_error
            .then(|| DiskErrors::new(source.qmp()));
        let guest = source.guest();
        let refusals = preflight::source(source.qmp(), guest, options.buffer_disks)?;
        if !refusals.is_empty() {
            info!(?refusals, "QEMU's guest is refused");
            return Err(SourceError::Refused(refusals));
        }
        let vcpus = vcpu_threads(source.qmp())?;
        let quotas = throttling::find(options.throttle_by, guest.pid, &vcpus)?;
        let watch = ProcessWatch::new(guest.pid).map_err(SourceError::Gone)?;
        let blocks = guest.open_ram().map_err(QemuMigrationError::from)?;
        let memory = Arc::new(open_memory(&blocks)?);
        let facts = facts(guest);
        let mut agent = AgentClient::connect(guest.pid)?;
        agent.hello()?;
        let tracker = tracker(&mut agent, &blocks)?;
        let qmp = source.qmp().clone();
        let planned = source.plan(options.buffer_disks)?;
        // Before anything is changed, so that a sender that is killed at any moment leaves QEMU's
        // settings and disks as they were.
        agent.set_rollback(&qmp_path, &planned.rollback_script())?;
        let prepared = planned.prepare().inspect_err(|_| {
            // All is as it was; the script would only keep the monitor busy for a moment.
            let _ = agent.clear_rollback();
        })?;
        let agent = Arc::new(Mutex::new(agent));
        let guest = Self {
            qmp,
            qmp_path,
            throttling: Throttling::new(quotas, &agent, watch.pid(), vcpus),
            costs: None,
            agent,
            watch,
            disk_errors,
            step: Step::Prepared(prepared),
            was_running: false,
            channel: None,
            relay: None,
        };
        Ok(Prepared {
            memory,
            tracker,
            guest,
            facts,
        })
    }
}

/// Tracks what QEMU's process writes to its RAM.
fn tracker(agent: &mut AgentClient, blocks: &[RamBlock]) -> Result<PagemapTracker, SourceError> {
    let lent = agent.userfaultfd()?;
    let uffd = Userfaultfd::from_fd(lent.fd);
    uffd.enable_async_write_protect()
        .map_err(DirtyError::from)?;
    let mut first = 0;
    let ranges = blocks
        .iter()
        .map(|block| {
            let pages = block.bytes / PAGE_BYTES as u64;
            let range = PageRange::new(first, pages);
            first += pages;
            TrackedRange {
                address: block.address,
                range,
            }
        })
        .collect();
    let pid = i32::try_from(agent.pid()).ok().and_then(Pid::from_raw);
    Ok(PagemapTracker::new(pid, uffd, ranges)?)
}
