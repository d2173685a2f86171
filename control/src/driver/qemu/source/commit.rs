//! The commit: the last step of a hand-over, in which QEMU gives the guest up.
//!
//! Invariant: there is a [`CommittedSource`] only when QEMU itself has said `completed`. Whoever has
//! one may tell the target to run the guest, or take the guest back, but not both.

use std::io::Write;

use pagelift_agent_protocol::RollbackStep;

use super::session::SourceSession;
use super::{QemuMigrationError, SourceFailure};
use crate::driver::qemu::disks::Buffered;
use crate::driver::qemu::migration::{self, STEP_LIMIT};
use crate::driver::qemu::return_path::SHUT_SUCCESS;
use crate::qmp::Timestamp;

/// Why a commit did not end with a guest handed over.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// QEMU did not give the guest up: the target must not run it.
    ///
    /// If undoing failed because the connection is lost, the source's QEMU has died, before it
    /// was told anything; the target's copy is whole, and may be run once that death is certain.
    #[error(transparent)]
    Kept(#[from] SourceFailure),
    /// QEMU was told to give the guest up and has not answered. The target must not run it until
    /// the source is known to be `postmigrate`, or to be gone.
    #[error("it is not known whether the source gave the guest up: {0}; ask its 'query-status'")]
    Unknown(Box<QemuMigrationError>),
}

/// Device state flows; the guest is still the source's.
#[derive(Debug)]
#[must_use]
pub struct HandingOver(SourceSession);

/// The guest is not the source's any more.
#[derive(Debug)]
pub struct CommittedSource {
    session: SourceSession,
    /// Nodes of the disks that went through the page cache.
    buffered: Vec<String>,
    completed_at: Option<Timestamp>,
}

impl HandingOver {
    pub(super) fn new(session: SourceSession) -> Self {
        Self(session)
    }

    /// As [`PreparedSource::rollback_script`](super::PreparedSource::rollback_script), for the time of the commit: a
    /// QEMU that had completed is made to go on as well, if the guest was running. It is refused
    /// until QEMU has made up its mind.
    ///
    /// Harmless only as long as the target has not been told to run the guest.
    pub fn rollback_script(&self) -> Vec<RollbackStep> {
        self.0.rollback_script(true)
    }

    /// Why QEMU's migration has ended, if it has although nobody told it to. Does not wait.
    pub fn ended(&self) -> Option<QemuMigrationError> {
        self.0.ended()
    }

    /// Gives the guest up: tells QEMU that the target has all (`SHUT` 0), and waits for its
    /// `completed`. Call it only once the target is complete and held.
    ///
    /// That `SHUT` was sent is no proof: a `migrate_cancel` from anywhere that reaches QEMU within
    /// the same few hundred microseconds may still win, and then the guest runs here. QEMU's own
    /// `completed` is the proof, and the only one the target may run on.
    ///
    /// # Errors
    /// See [`CommitError`] for who owns the guest then.
    pub fn commit(mut self) -> Result<CommittedSource, CommitError> {
        let session = &mut self.0;
        let stream = session.stream.take();
        let written = match &stream {
            Some(stream) => (&*stream).write_all(&SHUT_SUCCESS),
            None => Err(std::io::ErrorKind::NotConnected.into()),
        };
        if let Err(cause) = written {
            // Eight bytes go into a socket whole or not at all.
            session.stream = stream;
            return Err(self.0.fail(cause.into()).into());
        }
        let session = &mut self.0;
        let waited = migration::wait_status(
            &session.qmp,
            &mut session.events,
            "completed",
            STEP_LIMIT,
            |_, _| {},
        );
        match waited {
            Ok(reached) => Ok(CommittedSource {
                completed_at: reached.at,
                buffered: self.0.disks.take().map_or_else(Vec::new, Buffered::give_up),
                session: self.0,
            }),
            Err(cause @ QemuMigrationError::Ended { .. }) => {
                session.stream = stream;
                Err(self.0.fail(cause).into())
            }
            Err(cause) => Err(CommitError::Unknown(Box::new(cause))),
        }
    }

    /// Cancels; returns once the guest is as it was before.
    ///
    /// # Errors
    /// When it could not be brought there.
    pub fn cancel(mut self) -> Result<(), QemuMigrationError> {
        self.0.undo()
    }
}

impl CommittedSource {
    /// The target was never told, and never will be: the guest goes on here as it was before.
    ///
    /// # Errors
    /// When it does not.
    pub fn take_back(mut self) -> Result<(), QemuMigrationError> {
        let resumed = self.session.resume();
        // In either case.
        let restored = self.session.restore();
        let disks = Buffered::of(&self.session.qmp, std::mem::take(&mut self.buffered)).end();
        resumed
            .and(restored)
            .and_then(|()| disks.map_err(Into::into))
    }

    /// When QEMU stopped the guest; `None` when it was paused already.
    pub fn stopped_at(&self) -> Option<Timestamp> {
        self.session.stopped.and_then(|stopped| stopped.at)
    }

    /// When QEMU gave the guest up.
    pub fn completed_at(&self) -> Option<Timestamp> {
        self.completed_at
    }

    /// Puts QEMU's settings back; to be called after the target runs, as it takes its time.
    ///
    /// # Errors
    /// As QMP's; the guest is not concerned.
    pub fn finish(mut self) -> Result<(), QemuMigrationError> {
        self.session.restore()
    }
}
