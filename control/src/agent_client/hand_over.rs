//! The agent's part of a hand-over: the lease of the guest's stop, and the journal.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pagelift_agent_protocol::{
    ErrorCode, FEATURE_HOLD, FEATURE_JOURNAL, HOLD_MS, HoldLease, JournalEntry, JournalPhase,
    RecordRequest, Reply, Request,
};
use pagelift_engine::guest::{GuestError, RecordError};

use super::{AgentClient, AgentError, RETRY};

/// How long a client that comes back waits for another one to leave: the agent may not have seen yet
/// that it has left itself, and others ask it something now and then.
const COME_BACK: Duration = Duration::from_secs(1);

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

    /// As [`record`](Self::record), for a record that must not stay open. If the answer does not come
    /// this client leaves, comes back once, and reads the journal: what it has asked is done by
    /// then, or never will be. (The agent has also run a rollback script that was still set.)
    ///
    /// # Errors
    /// `Refused` when it was not recorded: the agent says so, or has ended, and the journal with it.
    /// `Unknown` when that cannot be found out either.
    pub fn record_surely(
        &mut self,
        session: u128,
        phase: JournalPhase,
        qmp_path: &Path,
    ) -> Result<(), RecordError> {
        let unanswered = match self.record(session, phase, qmp_path) {
            Err(error) if error.leaves_open() => error,
            answered => return answered.map_err(AgentError::into_record_error),
        };
        let deadline = Instant::now() + COME_BACK;
        let found = loop {
            match self.let_undo().and_then(|()| self.journal()) {
                Err(AgentError::Busy { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(RETRY);
                }
                found => break found,
            }
        };
        match found {
            Ok(Some(entry)) if entry.session == session && entry.phase.may_follow(phase) => Ok(()),
            Ok(_) | Err(AgentError::NoProcess { .. } | AgentError::NoAgent { .. }) => {
                Err(RecordError::Refused(not_kept(&unanswered)))
            }
            Err(error) => Err(RecordError::Unknown(not_kept(&error))),
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
    /// Whether what was asked may have been done, or may still be: the agent did not refuse it, and
    /// its answer did not come.
    fn leaves_open(&self) -> bool {
        matches!(
            self,
            Self::Protocol { .. }
                | Self::Unexpected { .. }
                | Self::Timeout { .. }
                | Self::Io { .. }
        )
    }

    /// What that means for a record that was asked for.
    pub(crate) fn into_record_error(self) -> RecordError {
        match self.leaves_open() {
            true => RecordError::Unknown(not_kept(&self)),
            false => RecordError::Refused(not_kept(&self)),
        }
    }

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

fn not_kept(error: &AgentError) -> GuestError {
    GuestError::new("the journal", error)
}
