//! The agent's part of a hand-over: the lease of the guest's stop, and the journal.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use pagelift_agent_protocol::{
    ErrorCode, FEATURE_HOLD, FEATURE_JOURNAL, HOLD_MS, HoldLease, JournalEntry, JournalPhase,
    RecordRequest, Reply, Request,
};

use super::{AgentClient, AgentError};

impl AgentClient {
    /// Whether the agent holds stops and keeps a journal: those of older releases do not.
    ///
    /// # Errors
    /// As every request.
    pub fn keeps_journal(&mut self) -> Result<bool, AgentError> {
        let features = match self.features {
            Some(features) => features,
            None => self.hello()?.features,
        };
        let both = FEATURE_HOLD | FEATURE_JOURNAL;
        Ok(features & both == both)
    }

    /// Lets the guest stand still for `lease` from now on. If neither this nor
    /// [`clear_rollback`](Self::clear_rollback) comes within that time, the agent takes this client for
    /// gone: it cuts it off from QEMU and runs the rollback script.
    ///
    /// A lease is counted in milliseconds, and cut to 10 ms to 10 minutes.
    ///
    /// # Errors
    /// A refusal with the code `LeaseOver` when the time was over, and as every request.
    pub fn hold(&mut self, lease: Duration) -> Result<(), AgentError> {
        let millis = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
        let lease = HoldLease::new(millis.clamp(*HOLD_MS.start(), *HOLD_MS.end()))
            .map_err(AgentError::BadRecord)?;
        match self.call(&Request::Hold(lease))? {
            (Reply::Held, _) => Ok(()),
            (other, _) => Err(self.unexpected("HOLD", &other)),
        }
    }

    /// Keeps `phase` of the migration `session` in the journal. In doubt QEMU is kept from running
    /// the guest by its monitor at `qmp_path`.
    ///
    /// [`JournalPhase::HandedOver`] ends the lease of the guest's stop and clears the rollback script
    /// in the same step, or is refused because the lease was over.
    ///
    /// # Errors
    /// A refusal with the code `AgainstPromise` when that would take a promise back, or begin a
    /// migration over another one's that is not settled, and as every request. After a refusal nothing was recorded; after another error it may have been.
    pub fn record(
        &mut self,
        session: u128,
        phase: JournalPhase,
        qmp_path: &Path,
    ) -> Result<(), AgentError> {
        let path = qmp_path.as_os_str().as_bytes().to_vec();
        let record = RecordRequest::new(session, phase, path).map_err(AgentError::BadRecord)?;
        match self.call(&Request::Record(record))? {
            (Reply::Recorded, _) => Ok(()),
            (other, _) => Err(self.unexpected("RECORD", &other)),
        }
    }

    /// What was recorded last, if anything.
    ///
    /// # Errors
    /// As every request.
    pub fn journal(&mut self) -> Result<Option<JournalEntry>, AgentError> {
        match self.call(&Request::GetJournal)? {
            (Reply::Journal(entry), _) => Ok(entry),
            (other, _) => Err(self.unexpected("GET_JOURNAL", &other)),
        }
    }

    /// Leaves, so that the agent runs a script that is still set, and comes back when it has.
    ///
    /// # Errors
    /// When the agent cannot be reached any more, or is another client's by now.
    pub fn let_undo(&mut self) -> Result<(), AgentError> {
        // A connection that the agent has closed is as good.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        *self = Self::connect(self.pid)?;
        self.hello().map(drop)
    }
}

impl AgentError {
    /// Whether the guest stood still for as long as it may, so that the agent has let it go on.
    pub fn is_lease_over(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: ErrorCode::LeaseOver,
                ..
            }
        )
    }
}
