//! Carrying out what was decided: one QEMU runs the guest, the other does not.
//!
//! Each step is recorded before it is done, so that whoever settles again after a crash decides the
//! same.

use std::time::Duration;

use pagelift_agent_protocol::{DOUBT_DRIVE, JournalPhase, NO_SESSION};
use pagelift_engine::wire::SessionId;
use serde_json::{Value, json};

use super::look::{LookError, Qemu, Side};
use crate::driver::qemu::inspect::run_state;
use crate::driver::qemu::migration;
use crate::qmp::QmpError;

/// How long a QEMU that was told to end may take.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A QEMU whose journal speaks of the migration that is settled. There is no other way to act on one.
#[derive(Debug)]
pub(super) struct Party<'a>(&'a mut Side);

impl Side {
    /// This side as one of the migration `session`, if it has a record of that.
    pub(super) fn party(&mut self, session: SessionId) -> Option<Party<'_>> {
        self.is_of(session).then_some(Party(self))
    }

    /// A person knows that the other side does not run the guest and never will: it goes on here,
    /// whatever was promised.
    ///
    /// # Errors
    /// When there is no QEMU, or no record that could be in doubt, or the guest does not go on.
    pub fn run_fenced(&mut self) -> Result<(), LookError> {
        if self.qemu.is_none() {
            return Err(LookError::Gone);
        }
        let record = self.record().ok_or(LookError::NothingRecorded)?;
        let party = Party(self);
        match record.phase.is_sources() {
            true => party.keep(),
            false => party.take_over(),
        }
    }
}

impl Party<'_> {
    /// The guest is the source's and this is the source: it goes on here.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn keep(mut self) -> Result<(), LookError> {
        let record = self.qemu()?.record;
        if record.is_some_and(|record| record.phase.is_open()) {
            // Another story begins: the promise of this one is void, by what the target shows or by a
            // person's word.
            return self.run(NO_SESSION, JournalPhase::Kept);
        }
        let session = record.map_or(NO_SESSION, |record| record.session);
        self.run(session, JournalPhase::Kept)
    }

    /// The guest is the target's and this is the target: it goes on here.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn take_over(mut self) -> Result<(), LookError> {
        let record = self.qemu()?.record.ok_or(LookError::NothingRecorded)?;
        if record.phase == JournalPhase::Running {
            return self.run(record.session, JournalPhase::Running);
        }
        self.run(record.session, JournalPhase::Granted)?;
        self.record_as(record.session, JournalPhase::Running)
    }

    /// The guest is the source's and this is the target: its QEMU is ended, since it cannot take
    /// another guest.
    ///
    /// # Errors
    /// When it does not end.
    pub(super) fn end(mut self) -> Result<(), LookError> {
        self.record(JournalPhase::Abandoned)?;
        let Some(qemu) = self.0.qemu.take() else {
            return Ok(());
        };
        let mut events = qemu.qmp.events();
        let gone = match qemu.qmp.execute("quit", Value::Null) {
            Ok(_) => events.wait("the end of QEMU", END_LIMIT, |_| None::<()>),
            Err(error) => Err(error),
        };
        match gone {
            Err(QmpError::Lost { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The guest is the target's and this is the source: it lets go of its disks, which a `cont` that was
    /// refused may have made it hold. The agent keeps it from running the guest.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub(super) fn let_go(&mut self) -> Result<(), LookError> {
        let arguments = json!({ "active": false });
        match self.qemu()?.qmp.execute("blockdev-set-active", arguments) {
            // A QEMU that does not know the command has no drives that are not active.
            Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The guest runs on the target and this is the source: that is recorded.
    ///
    /// # Errors
    /// When that cannot be recorded.
    pub(super) fn release(mut self) -> Result<(), LookError> {
        self.record(JournalPhase::Released)
    }

    /// Lets the guest go on, after `phase` of `session` was recorded.
    fn run(&mut self, session: u128, phase: JournalPhase) -> Result<(), LookError> {
        self.record_as(session, phase)?;
        let qemu = self.qemu()?;
        if qemu.run_state == "finish-migrate" {
            qemu.qmp.execute("migrate_cancel", Value::Null)?;
        }
        unlock(qemu)?;
        if qemu.run_state != "running" {
            migration::resume(&qemu.qmp)?;
        }
        qemu.run_state = run_state(&qemu.qmp)?;
        match qemu.run_state.as_str() {
            "running" | "suspended" => Ok(()),
            state => Err(LookError::DoesNotRun(state.to_owned())),
        }
    }

    fn qemu(&mut self) -> Result<&mut Qemu, LookError> {
        self.0.qemu.as_mut().ok_or(LookError::Gone)
    }

    /// Records `phase` of the migration that was recorded last.
    fn record(&mut self, phase: JournalPhase) -> Result<(), LookError> {
        let record = self.qemu()?.record.ok_or(LookError::NothingRecorded)?;
        self.record_as(record.session, phase)
    }

    fn record_as(&mut self, session: u128, phase: JournalPhase) -> Result<(), LookError> {
        let path = self.0.qmp_path.clone();
        let qemu = self.qemu()?;
        let agent = qemu.agent.as_mut().ok_or(LookError::NothingRecorded)?;
        agent.record(session, phase, &path)?;
        qemu.record = agent.journal()?;
        Ok(())
    }
}

/// Takes away what keeps QEMU from running a guest in doubt.
fn unlock(qemu: &Qemu) -> Result<(), QmpError> {
    // That there is no such drive is said in text, and is as good.
    qemu.qmp
        .human(&format!("drive_del {DOUBT_DRIVE}"))
        .map(drop)
}
