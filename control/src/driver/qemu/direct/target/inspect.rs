//! Looking at a QEMU that is to take a guest, and preparing it.

use std::fs::File;
use std::sync::{Arc, Mutex};

use pagelift_engine::memory::{FileMemory, PersistentFile};
use pagelift_engine::wire::GuestProperty;
use tracing::{info, warn};

use super::DirectTarget;
use super::feed::Loading;
use crate::agent_client::AgentClient;
use crate::driver::qemu::direct::error::DirectError;
use crate::driver::qemu::direct::hand_over::AgentJournal;
use crate::driver::qemu::direct::memory;
use crate::driver::qemu::direct::options::DirectQemu;
use crate::driver::qemu::direct::watch::ProcessWatch;
use crate::driver::qemu::persistent::{self, GuestFiles};
use crate::driver::qemu::target::TargetQemu;
use crate::driver::qemu::{Guest, PersistentMemory, QemuMigrationError, preflight};
use crate::driver::{DriverError, InspectedTarget, PreparedTarget, Refusal};
use crate::qmp::Address;

/// A QEMU that can take a guest.
#[derive(Debug)]
pub struct InspectedQemuTarget {
    target: TargetQemu,
    watch: ProcessWatch,
    memory: FileMemory,
    /// The agent in QEMU, if there is one.
    journal: Option<AgentJournal>,
    how: PersistentMemory,
    same_memory: bool,
    left_alone: Vec<PersistentFile>,
    copied: Vec<File>,
}

impl InspectedQemuTarget {
    /// Looks at the QEMU, and refuses what could not end well.
    pub(in crate::driver::qemu::direct) fn new(driver: &DirectQemu) -> Result<Self, DirectError> {
        let target = TargetQemu::connect(&driver.qmp)?;
        let guest = target.guest();
        refuse(preflight::target(target.qmp(), guest)?)?;
        let watch = ProcessWatch::new(guest.pid).map_err(DirectError::Gone)?;
        let journal = journal(guest.pid, &driver.qmp)?;
        let how = driver.persistent_memory;
        let files =
            GuestFiles::open(guest, how, driver.same_memory).map_err(QemuMigrationError::from)?;
        let memory = memory::open(&files.moved)?;
        refuse(persistent::refuse_filled(guest, &memory, &files.moved)?)?;
        Ok(Self {
            target,
            watch,
            memory,
            journal,
            how,
            same_memory: driver.same_memory,
            left_alone: files.left_alone,
            copied: files.copied,
        })
    }
}

/// The journal of the agent in process `pid`. A QEMU without one takes a guest as well; what was
/// promised is then lost with this process.
fn journal(pid: u32, qmp: &Address) -> Result<Option<AgentJournal>, DirectError> {
    let without = |why: &dyn std::fmt::Display| {
        warn!(pid, %why, "no journal: should pagelift-receive be killed during the hand-over, nobody \
               can say whose the guest is");
        Ok(None)
    };
    let Address::Unix(path) = qmp else {
        return without(&"the monitor is no unix socket");
    };
    let qmp_path = std::path::absolute(path).map_err(DirectError::Gone)?;
    let mut agent = match AgentClient::connect(pid) {
        Ok(agent) => agent,
        Err(error) => return without(&error),
    };
    // An agent that another program uses is no reason to go on without it.
    if !agent.keeps_journal()? {
        return without(&DirectError::OldAgent(pid));
    }
    let agent = Arc::new(Mutex::new(agent));
    Ok(Some(AgentJournal { agent, qmp_path }))
}

/// Refuses, if there is a reason to.
fn refuse(refusals: Vec<Refusal>) -> Result<(), DirectError> {
    if refusals.is_empty() {
        return Ok(());
    }
    info!(?refusals, "QEMU cannot take a guest");
    let what = "this QEMU cannot take a guest";
    Err(DirectError::Refused { what, refusals })
}

impl InspectedTarget for InspectedQemuTarget {
    type Guest = DirectTarget;

    fn properties(&self) -> Vec<GuestProperty> {
        let guest = self.target.guest();
        let mut properties = guest.properties();
        properties.extend(guest.persistent_property(self.how));
        properties.extend(Guest::same_memory_property(self.same_memory));
        properties
    }

    fn prepare(self) -> Result<PreparedTarget<DirectTarget>, DriverError> {
        let held = self.target.hold().map_err(DirectError::from)?;
        let guest = DirectTarget {
            watch: self.watch,
            held: Some(held),
            loading: Arc::new(Mutex::new(Loading::Waiting(None))),
            feeder: None,
            memory_is_complete: None,
            running: None,
            journal: self.journal,
            copied: self.copied,
        };
        Ok(PreparedTarget {
            memory: Arc::new(self.memory),
            persistent: self.left_alone,
            guest,
        })
    }
}
