//! The source's steps of a hand-over.
//!
//! ```text
//! SourceQemu -plan-> PlannedSource -prepare-> PreparedSource -arm, begin_switchover->
//! SwitchingSource -wait_paused-> PausedSource -continue_device_state->
//! HandingOver -commit-> CommittedSource
//! ```
//!
//! Each step consumes the state before it, and [`CommittedSource`] has no way back: a guest that was
//! given away cannot be resumed here. Every earlier state can be cancelled; then, and whenever a
//! step fails or a state is dropped, the guest is made to run as it did before (a guest that was
//! paused stays paused) and QEMU's settings are put back.
//!
//! # What brings a guest back (QEMU 10.0.2)
//!
//! `migrate_cancel` alone, in every state before the commit: `active`, `pre-switchover` and
//! `device`, whether our end of the stream is open or closed. In `completed` it does nothing.
//! `cont` must not be part of it: before the commit QEMU refuses it ("Migration is not finalized
//! yet"), and after the commit it *starts the guest a second time*. QEMU by itself resumes the
//! guest when the stream closes in `device`, but waits for ever when it does in `pre-switchover`.

mod commit;
mod session;

pub use commit::{CommitError, CommittedSource, HandingOver};

use std::os::unix::net::UnixStream;
use std::time::Duration;

use pagelift_agent_protocol::RollbackStep;
use serde_json::json;

use super::disks::Buffered;
use super::inspect::Guest;
use super::migration::QemuMigrationError;
use super::run_state::goes_on;
use crate::qmp::{Address, Qmp, Timestamp};
use session::SourceSession;

/// A step failed; what happened to the guest then.
#[derive(Debug, thiserror::Error)]
#[error("{cause}; {}", match .undone {
    Ok(()) => "the guest is on the source as it was before".to_owned(),
    Err(error) => format!("and undoing it failed: {error}"),
})]
pub struct SourceFailure {
    /// Why the step failed.
    pub cause: Box<QemuMigrationError>,
    /// Whether the guest is as it was before.
    pub undone: Result<(), Box<QemuMigrationError>>,
}

/// A source whose guest runs, and of which nothing has been changed.
#[derive(Debug)]
pub struct SourceQemu {
    qmp: Qmp,
    guest: Guest,
}

/// What has to be changed is known, and how to undo it; nothing has been changed.
#[derive(Debug)]
#[must_use]
pub struct PlannedSource(SourceSession);

/// The guest runs, and its RAM is sent. QEMU's migration is everybody's still.
#[derive(Debug)]
#[must_use]
pub struct PreparedSource(SourceSession);

/// QEMU's migration has begun; the guest runs until QEMU stops it, milliseconds later.
#[derive(Debug)]
#[must_use]
pub struct SwitchingSource(SourceSession);

/// The guest is stopped and its RAM is final; QEMU waits for us.
#[derive(Debug)]
#[must_use]
pub struct PausedSource(SourceSession);

impl SourceQemu {
    /// Connects and looks at the guest.
    ///
    /// # Errors
    /// When the monitor does not answer or the guest cannot be described.
    pub fn connect(address: &Address) -> Result<Self, QemuMigrationError> {
        let qmp = Qmp::connect(address)?;
        let guest = Guest::inspect(&qmp)?;
        Ok(Self { qmp, guest })
    }

    /// The guest.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// The monitor.
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// Looks up what direct mode has to change. With `buffer_disks` that includes the disks that
    /// are read past the host's page cache, which could not be tracked: they go through it until
    /// the guest has moved, or until the migration has failed.
    ///
    /// # Errors
    /// When QEMU does not say.
    pub fn plan(self, buffer_disks: bool) -> Result<PlannedSource, QemuMigrationError> {
        let disks = match buffer_disks {
            true => Some(Buffered::plan(&self.qmp)?),
            false => None,
        };
        Ok(PlannedSource(SourceSession {
            events: self.qmp.events(),
            was_running: goes_on(&self.guest.run_state),
            qmp: self.qmp,
            disks,
            settings: None,
            stream: None,
            stopped: None,
            asked: None,
        }))
    }
}

impl PlannedSource {
    /// As [`PreparedSource::rollback_script`]: somebody else who has it before anything is changed can undo
    /// all of it, whenever we die.
    pub fn rollback_script(&self) -> Vec<RollbackStep> {
        self.0.rollback_script(false)
    }

    /// Changes what has to be changed.
    ///
    /// # Errors
    /// When QEMU refuses; all is as it was then.
    pub fn prepare(self) -> Result<PreparedSource, QemuMigrationError> {
        // On failure the session is dropped, which undoes what was done.
        self.0.change()?;
        Ok(PreparedSource(self.0))
    }
}

impl PreparedSource {
    /// Looks up which of QEMU's migration settings have to be changed, so that the rollback script
    /// has them. Nothing is changed.
    ///
    /// # Errors
    /// When QEMU does not say, or a block job runs that no guest can be moved under.
    pub fn arm(&mut self) -> Result<(), QemuMigrationError> {
        self.0.arm()
    }

    /// What somebody else must do at a monitor of QEMU's if we die before the commit.
    ///
    /// Harmless at any time: once QEMU has given the guest up it does nothing, and one that comes
    /// during the commit makes QEMU decide, which [`HandingOver::commit`] then reports. Only the
    /// first step matters for the guest; the others put settings back and are refused until the
    /// cancelled migration is gone.
    pub fn rollback_script(&self) -> Vec<RollbackStep> {
        self.0.rollback_script(false)
    }

    /// Changes QEMU's migration settings, looked up by [`arm`](Self::arm), and starts its migration;
    /// the second value is our end of its stream.
    ///
    /// From here on the stream must be read (it goes to the target's QEMU) or QEMU stalls.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn begin_switchover(mut self) -> Result<(SwitchingSource, UnixStream), SourceFailure> {
        match self.0.begin() {
            Ok(stream) => Ok((SwitchingSource(self.0), stream)),
            Err(cause) => Err(self.0.fail(cause)),
        }
    }

    /// Puts QEMU's settings back.
    ///
    /// # Errors
    /// As QMP's.
    pub fn cancel(mut self) -> Result<(), QemuMigrationError> {
        self.0.undo()
    }
}

impl SwitchingSource {
    /// Whether the guest was running before, and so has to run on the target.
    pub fn was_running(&self) -> bool {
        self.0.was_running
    }

    /// Waits until QEMU has stopped the guest and waits for us (`pre-switchover`).
    ///
    /// # Errors
    /// When the migration fails or `limit` passes; the guest runs on.
    pub fn wait_paused(mut self, limit: Duration) -> Result<PausedSource, SourceFailure> {
        match self.0.wait_paused(limit) {
            Ok(()) => Ok(PausedSource(self.0)),
            Err(cause) => Err(self.0.fail(cause)),
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

impl PausedSource {
    /// When QEMU stopped the guest; `None` when it was paused already.
    pub fn stopped_at(&self) -> Option<Timestamp> {
        self.0.stopped.and_then(|stopped| stopped.at)
    }

    /// How long ago QEMU stopped the guest; `None` when it was paused already. To be trusted even
    /// if the host's clock was set meanwhile, to within the time that QEMU took for the stop.
    pub fn stopped_ago(&self) -> Option<Duration> {
        self.0.stopped_ago()
    }

    /// Why QEMU's migration has ended, if it has although nobody told it to. Does not wait.
    pub fn ended(&self) -> Option<QemuMigrationError> {
        self.0.ended()
    }

    /// Lets QEMU send device state. The target must have all RAM by the time it loads it.
    ///
    /// # Errors
    /// When QEMU refuses; the guest runs on.
    pub fn continue_device_state(self) -> Result<HandingOver, SourceFailure> {
        let arguments = json!({ "state": "pre-switchover" });
        match self.0.qmp.execute("migrate-continue", arguments) {
            Ok(_) => Ok(HandingOver::new(self.0)),
            Err(cause) => Err(self.0.fail(cause.into())),
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
