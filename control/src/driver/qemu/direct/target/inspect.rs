//! Looking at a QEMU that is to take a guest, and preparing it.

use std::sync::{Arc, Mutex};

use pagelift_engine::memory::FileMemory;
use pagelift_engine::wire::GuestProperty;
use tracing::{info, warn};

use super::DirectTarget;
use super::feed::Loading;
use crate::agent_client::AgentClient;
use crate::driver::qemu::direct::error::DirectError;
use crate::driver::qemu::direct::hand_over::AgentJournal;
use crate::driver::qemu::direct::memory;
use crate::driver::qemu::direct::watch::ProcessWatch;
use crate::driver::qemu::target::TargetQemu;
use crate::driver::qemu::{QemuMigrationError, preflight};
use crate::driver::{DriverError, InspectedTarget, PreparedTarget};
use crate::qmp::Address;

/// A QEMU that can take a guest.
#[derive(Debug)]
pub struct InspectedQemuTarget {
    target: TargetQemu,
    watch: ProcessWatch,
    memory: FileMemory,
    /// The agent in QEMU, if there is one.
    journal: Option<AgentJournal>,
}

impl InspectedQemuTarget {
    /// Looks at the QEMU whose monitor is at `qmp`, and refuses what could not end well.
    pub(in crate::driver::qemu::direct) fn new(qmp: &Address) -> Result<Self, DirectError> {
        let target = TargetQemu::connect(qmp)?;
        let guest = target.guest();
        let refusals = preflight::target(target.qmp(), guest)?;
        if !refusals.is_empty() {
            info!(?refusals, "QEMU cannot take a guest");
            let what = "this QEMU cannot take a guest";
            return Err(DirectError::Refused { what, refusals });
        }
        let watch = ProcessWatch::new(guest.pid).map_err(DirectError::Gone)?;
        let journal = journal(guest.pid, qmp)?;
        let memory = memory::open(&guest.open_ram().map_err(QemuMigrationError::from)?)?;
        Ok(Self {
            target,
            watch,
            memory,
            journal,
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

impl InspectedTarget for InspectedQemuTarget {
    type Guest = DirectTarget;

    fn properties(&self) -> Vec<GuestProperty> {
        self.target.guest().properties()
    }

    fn prepare(self) -> Result<PreparedTarget<DirectTarget>, DriverError> {
        let held = self.target.hold().map_err(DirectError::from)?;
        let guest = DirectTarget {
            watch: self.watch,
            held: Some(held),
            loading: Arc::new(Mutex::new(Loading::Waiting(None))),
            feeder: None,
            running: None,
            journal: self.journal,
        };
        Ok(PreparedTarget {
            memory: Arc::new(self.memory),
            guest,
        })
    }
}
