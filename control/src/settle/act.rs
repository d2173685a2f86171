//! Carrying out what was decided: one QEMU runs the guest, the other does not.
//!
//! Each step is recorded before it is done, so that whoever settles again after a crash decides the
//! same.

use std::time::Duration;

use pagelift_agent_protocol::{DOUBT_DRIVE, JournalPhase, NO_SESSION};
use serde_json::{Value, json};

use super::look::{LookError, Qemu, Side};
use crate::driver::qemu::inspect::run_state;
use crate::driver::qemu::migration;
use crate::qmp::QmpError;

/// How long a QEMU that was told to end may take.
const END_LIMIT: Duration = Duration::from_secs(10);

impl Side {
    /// The guest is the source's and this is the source: it goes on here.
    ///
    /// # Errors
    /// When it does not.
    pub fn keep(&mut self) -> Result<(), LookError> {
        self.run(&[JournalPhase::Kept])
    }

    /// The guest is the target's and this is the target: it goes on here.
    ///
    /// # Errors
    /// When it does not.
    pub fn take_over(&mut self) -> Result<(), LookError> {
        self.run(&[JournalPhase::Granted])?;
        self.record_as(JournalPhase::Running)
    }

    /// A person knows that the other side does not run the guest and never will: it goes on here,
    /// whatever was promised.
    ///
    /// # Errors
    /// When it does not.
    pub fn run_fenced(&mut self) -> Result<(), LookError> {
        if let Some(qemu) = &mut self.qemu
            && let Some(record) = &mut qemu.record
            && record.phase.is_sources()
        {
            // Another story begins: the promise of this one is void, by that person's word.
            record.session = NO_SESSION;
        }
        self.run(&[JournalPhase::Kept, JournalPhase::Granted])
    }

    /// The guest is the source's and this is the target: its QEMU is ended, since it cannot take
    /// another guest.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(&mut self) -> Result<(), LookError> {
        self.record_as(JournalPhase::Abandoned)?;
        let Some(qemu) = self.qemu.take() else {
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
    pub fn let_go(&mut self) -> Result<(), LookError> {
        let Some(qemu) = &self.qemu else {
            return Ok(());
        };
        let arguments = json!({ "active": false });
        match qemu.qmp.execute("blockdev-set-active", arguments) {
            // A QEMU that does not know the command has no drives that are not active.
            Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The guest runs on the target and this is the source: that is recorded.
    ///
    /// # Errors
    /// When that cannot be recorded.
    pub fn release(&mut self) -> Result<(), LookError> {
        self.record_as(JournalPhase::Released)
    }

    /// Lets the guest go on, after that one of `phases` which is this side's was recorded.
    fn run(&mut self, phases: &[JournalPhase]) -> Result<(), LookError> {
        for phase in phases {
            self.record_as(*phase)?;
        }
        let qemu = self.qemu.as_mut().ok_or(LookError::Gone)?;
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

    /// Records `phase`, if it is one of this side's role and was not recorded already.
    fn record_as(&mut self, phase: JournalPhase) -> Result<(), LookError> {
        let Some(qemu) = &mut self.qemu else {
            return Ok(());
        };
        let (Some(agent), Some(record)) = (&mut qemu.agent, &mut qemu.record) else {
            return Ok(());
        };
        let is_own = record.phase.is_sources() == phase.is_sources();
        // A target that runs the guest has been granted it.
        let is_past = record.phase == JournalPhase::Running && phase == JournalPhase::Granted;
        if is_own && !is_past {
            agent.record(record.session, phase, &self.qmp_path)?;
            record.phase = phase;
        }
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
