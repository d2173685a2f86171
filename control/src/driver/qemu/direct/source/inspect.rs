//! Looking at a guest that is to leave, and preparing it.
//!
//! Nothing is changed before everything has been looked at, nor before the agent knows how to
//! undo it: a guest that is refused is as it was.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use pagelift_agent_protocol::{JournalPhase, NO_SESSION};
use pagelift_engine::dirty::{DirtyError, DiscardSwitch, ManualTracker};
use pagelift_engine::memory::{FileMemory, PersistentFile, ReadPages};
use pagelift_engine::ram::GuestRam;
use pagelift_engine::sys::{PagemapScan, Userfaultfd};
use pagelift_engine::wire::{GuestProperty, PropertyKind};
use rustix::process::Pid;
use tracing::info;

use super::{DirectSource, Step};
use crate::agent_client::AgentClient;
use crate::driver::qemu::direct::disk_errors::DiskErrors;
use crate::driver::qemu::direct::error::DirectError;
use crate::driver::qemu::direct::hand_over::{AgentJournal, StopLease};
use crate::driver::qemu::direct::memory;
use crate::driver::qemu::direct::options::DirectQemu;
use crate::driver::qemu::direct::other_hands::{OtherHands, UnusedBalloon};
use crate::driver::qemu::direct::watch::ProcessWatch;
use crate::driver::qemu::other_hands::Devices;
use crate::driver::qemu::persistent::GuestFiles;
use crate::driver::qemu::preflight::Discards;
use crate::driver::qemu::run_state::goes_on;
use crate::driver::qemu::source::SourceQemu;
use crate::driver::qemu::{Guest, PersistentMemory, QemuMigrationError, preflight, vcpu_threads};
use crate::driver::{DriverError, InspectedSource, PreparedSource, Refusal};
use crate::qmp::Address;
use crate::throttle::{FoundThrottle, GuestThrottle};

/// A QEMU whose guest can leave.
#[derive(Debug)]
pub struct InspectedQemuSource {
    source: SourceQemu,
    /// As the agent finds it.
    qmp_path: PathBuf,
    agent: AgentClient,
    /// Whether the journal has it that the guest, which runs here, may be another QEMU's.
    is_promised: bool,
    watch: ProcessWatch,
    disk_errors: Option<DiskErrors>,
    throttle: FoundThrottle,
    memory: FileMemory,
    how: PersistentMemory,
    same_memory: bool,
    left_alone: Vec<PersistentFile>,
    remote: Vec<File>,
    /// Devices when the guest was looked at.
    devices: Devices,
    /// Where QEMU has the regions of `memory`.
    addresses: Vec<u64>,
    buffer_disks: bool,
    allow_guest_abi_change: bool,
}

impl InspectedQemuSource {
    /// Looks at the guest, and refuses what could not end well.
    pub(in crate::driver::qemu::direct) fn new(driver: &DirectQemu) -> Result<Self, DirectError> {
        let Address::Unix(path) = &driver.qmp else {
            return Err(DirectError::NotUnix(driver.qmp.clone()));
        };
        // The agent opens it by this name, from wherever QEMU was started.
        let qmp_path = std::path::absolute(path).map_err(DirectError::Gone)?;
        PagemapScan::probe().map_err(DirtyError::from)?;
        let source = SourceQemu::connect(&driver.qmp)
            .map_err(|error| DirectError::from(error).or_gone(&qmp_path))?;
        let watch = ProcessWatch::new(source.guest().pid)
            .map_err(|error| DirectError::Gone(error).or_gone(&qmp_path))?;
        Self::look(driver, qmp_path, source).map_err(|error| error.or_ended(&watch))
    }

    fn look(
        driver: &DirectQemu,
        qmp_path: PathBuf,
        source: SourceQemu,
    ) -> Result<Self, DirectError> {
        // Before the state is looked at: a guest that a disk has stopped already is refused.
        let disk_errors = driver.abort_on_error.then(|| DiskErrors::new(source.qmp()));
        let guest = source.guest();
        let refusals = preflight::source(source.qmp(), guest, driver.buffer_disks)?;
        if !refusals.is_empty() {
            info!(?refusals, "QEMU's guest is refused");
            let what = "this guest cannot be moved";
            return Err(DirectError::Refused { what, refusals });
        }
        let devices = Devices::list(source.qmp())?;
        let vcpus = vcpu_threads(source.qmp())?;
        let throttle = FoundThrottle::find(driver.throttle_by, guest.pid, vcpus)?;
        let watch = ProcessWatch::new(guest.pid).map_err(DirectError::Gone)?;
        let how = driver.persistent_memory;
        let files =
            GuestFiles::open(guest, how, driver.same_memory).map_err(QemuMigrationError::from)?;
        let memory = memory::open(&files.moved)?;
        let mut agent = AgentClient::connect(guest.pid)?;
        if !agent.keeps_journal()? {
            return Err(DirectError::OldAgent(guest.pid));
        }
        let is_promised = agent.journal()?.is_some_and(|last| last.phase.is_open());
        if is_promised && !goes_on(&guest.run_state) {
            let refusals = vec![Refusal::new(
                "this guest may be another QEMU's ('pagelift where' says what is known)",
                "run 'pagelift settle' first",
            )];
            info!(?refusals, "QEMU's guest is in doubt");
            let what = "this guest cannot be moved";
            return Err(DirectError::Refused { what, refusals });
        }
        Ok(Self {
            source,
            qmp_path,
            agent,
            is_promised,
            watch,
            disk_errors,
            throttle,
            memory,
            how,
            same_memory: driver.same_memory,
            left_alone: files.left_alone,
            remote: files.remote,
            addresses: files.moved.iter().map(|block| block.address).collect(),
            devices,
            buffer_disks: driver.buffer_disks,
            allow_guest_abi_change: driver.allow_guest_abi_change,
        })
    }

    fn begin(self) -> Result<PreparedSource<DirectSource>, DirectError> {
        let mut agent = self.agent;
        if self.is_promised {
            // It was seen to run here. The agent takes no new migration over an open promise.
            agent.record(NO_SESSION, JournalPhase::Kept, &self.qmp_path)?;
        }
        let qmp = self.source.qmp().clone();
        let discards = preflight::discards(&qmp, self.source.guest())?;
        let (switch, balloon) = match discards {
            Discards::Never => (None, None),
            Discards::Always => (Some(DiscardSwitch::on()), None),
            Discards::ByBalloon => {
                let switch = DiscardSwitch::default();
                (Some(switch.clone()), Some(UnusedBalloon(switch)))
            }
        };
        if let Some(balloon) = &balloon {
            balloon.look(&qmp);
        }
        let ram = tracked(&mut agent, self.memory, &self.addresses, switch)?;
        let planned = self.source.plan(self.buffer_disks)?;
        // Before anything is changed, so that a sender that is killed at any moment leaves QEMU's
        // disks as they were. Its settings are changed later, and known to the agent before.
        let script = planned.rollback_script();
        if !script.is_empty() {
            agent.set_rollback(&self.qmp_path, &script)?;
        }
        let prepared = planned.prepare().inspect_err(|_| {
            // All is as it was; the script would only keep the monitor busy for a moment.
            let _ = agent.clear_rollback();
        })?;
        let agent = Arc::new(Mutex::new(agent));
        let journal = AgentJournal {
            agent: Arc::clone(&agent),
            qmp_path: self.qmp_path.clone(),
        };
        let guest = DirectSource {
            qmp: qmp.clone(),
            qmp_path: self.qmp_path,
            journal,
            stop_lease: StopLease::default(),
            throttle: GuestThrottle::new(self.throttle, &agent),
            costs: None,
            agent,
            watch: self.watch,
            disk_errors: self.disk_errors,
            other_hands: Some(
                OtherHands::watch(qmp, self.devices, balloon).map_err(DirectError::Gone)?,
            ),
            step: Step::Prepared(prepared),
            was_running: false,
            channel: None,
            relay: None,
            remote: self.remote,
        };
        Ok(PreparedSource {
            ram,
            persistent: self.left_alone,
            guest,
        })
    }
}

impl InspectedSource for InspectedQemuSource {
    type Guest = DirectSource;

    fn properties(&self) -> Vec<GuestProperty> {
        let guest = self.source.guest();
        let mut properties = guest.properties();
        properties.extend(guest.persistent_property(self.how));
        properties.extend(Guest::same_memory_property(self.same_memory));
        if self.allow_guest_abi_change {
            // The target compares no details with a source that gives none.
            properties.retain(|property| property.kind == PropertyKind::Required);
        }
        properties
    }

    fn prepare(self) -> Result<PreparedSource<DirectSource>, DriverError> {
        let pid = self.source.guest().pid;
        let watch = ProcessWatch::new(pid).map_err(DirectError::Gone)?;
        Ok(self.begin().map_err(|error| error.or_ended(&watch))?)
    }
}

/// `memory`, which QEMU has at `addresses`, with what QEMU's process writes to it tracked,
/// and, once `discards` is on, the pages that it discards.
fn tracked(
    agent: &mut AgentClient,
    memory: FileMemory,
    addresses: &[u64],
    discards: Option<DiscardSwitch>,
) -> Result<GuestRam, DirectError> {
    if addresses.is_empty() {
        // Nothing is copied, so nothing that is written has to be known.
        let tracker = ManualTracker::new(memory.layout().pages());
        return Ok(GuestRam::new(Arc::new(memory), Box::new(tracker)));
    }
    let uffd = Userfaultfd::from_fd(agent.userfaultfd()?.fd);
    let pid = i32::try_from(agent.pid()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| DirectError::Gone(std::io::ErrorKind::NotFound.into()))?;
    Ok(match discards {
        Some(switch) => GuestRam::of_discarding_process(pid, uffd, memory, addresses, switch)?,
        None => GuestRam::of_process(pid, uffd, memory, addresses)?,
    })
}
