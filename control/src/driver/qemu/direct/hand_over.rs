//! The hand-over as the agents know it: journal and lease.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pagelift_agent_protocol::{JournalPhase, RollbackStep};
use pagelift_engine::guest::{Journal, Promise, RecordError};
use pagelift_engine::wire::SessionId;

use crate::agent_client::{AgentClient, AgentError};
use crate::failpoints::{self, Failpoint};

/// How much longer than the guest may stand still the agent's lease lasts: pagelift itself lets the
/// guest go on first, if it can.
const GRACE: Duration = Duration::from_millis(500);

/// Longest lease: longer than any one step of QEMU's may take.
const LONGEST_LEASE: Duration = Duration::from_secs(35);

/// A lease is renewed where that puts its end off by so much.
const RENEWED_BY: Duration = Duration::from_millis(250);

/// The journal that an agent keeps.
#[derive(Clone, Debug)]
pub(super) struct AgentJournal {
    pub(super) agent: Arc<Mutex<AgentClient>>,
    /// The monitor, as the agent finds it.
    pub(super) qmp_path: PathBuf,
}

impl AgentJournal {
    /// Has the agent end QEMU, should this process die before it has promised to be prepared: what has
    /// been loaded is another QEMU's guest, and must not be started by anybody. Once that is promised,
    /// all that is left to do are the steps of `settings`.
    ///
    /// # Errors
    /// As every request of the agent.
    pub(super) fn end_unless_promised(
        &self,
        settings: Vec<RollbackStep>,
    ) -> Result<(), AgentError> {
        let steps: Vec<_> = std::iter::once(RollbackStep::Quit)
            .chain(settings)
            .collect();
        lock(&self.agent).set_rollback(&self.qmp_path, &steps)
    }

    /// Has the agent put QEMU's migration settings back, should this process die before QEMU has begun.
    ///
    /// # Errors
    /// As every request of the agent.
    pub(super) fn put_back(&self, settings: &[RollbackStep]) -> Result<(), AgentError> {
        match settings {
            [] => Ok(()),
            settings => lock(&self.agent).set_rollback(&self.qmp_path, settings),
        }
    }

    /// QEMU has taken nothing, or all is done that there was to do.
    pub(super) fn clear_rollback(&self) {
        // A script that stays ends a QEMU that waits for a guest, or sets what was set already.
        let _ = lock(&self.agent).clear_rollback();
    }
}

impl Journal for AgentJournal {
    fn record(&mut self, session: SessionId, promise: Promise) -> Result<(), RecordError> {
        let phase = match promise {
            Promise::Moving => JournalPhase::Moving,
            Promise::HandedOver => JournalPhase::HandedOver,
            Promise::Released => JournalPhase::Released,
            Promise::Kept => JournalPhase::Kept,
            Promise::Prepared => JournalPhase::Prepared,
            Promise::Granted => JournalPhase::Granted,
            Promise::Running => JournalPhase::Running,
            Promise::Abandoned => JournalPhase::Abandoned,
        };
        let mut agent = lock(&self.agent);
        match promise {
            Promise::HandedOver => agent.record_surely(session.0, phase, &self.qmp_path)?,
            _ => agent
                .record(session.0, phase, &self.qmp_path)
                .map_err(AgentError::into_record_error)?,
        }
        drop(agent);
        match promise {
            Promise::HandedOver => failpoints::reached(Failpoint::GivenUp),
            Promise::Prepared => failpoints::reached(Failpoint::Prepared),
            _ => {}
        }
        Ok(())
    }
}

/// The lease on the guest's stop: should this process hang, the agent lets the guest go on.
#[derive(Debug, Default)]
pub(super) struct StopLease {
    until: Option<Instant>,
}

impl StopLease {
    /// Lets the guest stand still for `limit` from now on.
    ///
    /// # Errors
    /// When it was let go on.
    pub(super) fn extend(
        &mut self,
        agent: &Mutex<AgentClient>,
        limit: Duration,
    ) -> Result<(), AgentError> {
        let lease = limit.saturating_add(GRACE).min(LONGEST_LEASE);
        let until = Instant::now() + lease;
        if self.until.is_some_and(|before| until < before + RENEWED_BY) {
            return Ok(());
        }
        lock(agent).hold(lease)?;
        self.until = Some(until);
        Ok(())
    }
}

/// The agent's connection.
pub(super) fn lock(agent: &Mutex<AgentClient>) -> MutexGuard<'_, AgentClient> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}
