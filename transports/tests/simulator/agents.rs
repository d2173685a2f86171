//! The agents of both QEMUs, which outlive the programs: journals, and the lease of the guest's stop.
//! A record is refused as `ffi/agent-protocol/src/journal.rs` has it: what takes a promise back breaks a
//! rule, and no migration begins over an open promise.

use std::time::Duration;

use pagelift_engine::guest::{GuestError, Journal, Promise, RecordError};
use pagelift_engine::units::Instant;
use pagelift_engine::wire::SessionId;
use std::sync::Arc;

use super::memory::Side;
use super::truth::{Mishap, Truth};

/// How much longer than the guest may stand still the lease lasts.
const GRACE: Duration = Duration::from_millis(500);

/// What an agent knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Agent {
    record: Option<(SessionId, Promise)>,
    held_until: Option<Instant>,
    /// The program hung for too long, and was cut off from QEMU.
    cut_off: bool,
}

impl Agent {
    /// What was recorded last.
    pub fn record(&self) -> Option<(SessionId, Promise)> {
        self.record
    }

    pub fn set_record(&mut self, session: SessionId, promise: Promise) {
        self.record = Some((session, promise));
    }

    /// The same agent, for another program.
    #[must_use]
    pub fn for_another_program(self) -> Self {
        Self {
            record: self.record,
            ..Self::default()
        }
    }

    pub fn promise(&self) -> Option<Promise> {
        self.record.map(|(_, promise)| promise)
    }
}

/// The journal of one side.
#[derive(Debug)]
pub struct SimJournal {
    pub truth: Arc<Truth>,
    pub side: Side,
}

impl Journal for SimJournal {
    fn record(&mut self, session: SessionId, promise: Promise) -> Result<(), RecordError> {
        let is_hand_over = promise == Promise::HandedOver;
        if is_hand_over && self.truth.strikes(Mishap::RecordLost) {
            return Err(unanswered());
        }
        let recorded = self.truth.record(self.side, session, promise);
        recorded.map_err(RecordError::Refused)?;
        match is_hand_over && self.truth.strikes(Mishap::AnswerLost) {
            true => Err(unanswered()),
            false => Ok(()),
        }
    }
}

fn unanswered() -> RecordError {
    RecordError::Unknown(GuestError("the agent does not answer".into()))
}

fn may_follow(after: Promise, before: Promise) -> bool {
    use Promise::{Abandoned, Granted, HandedOver, Kept, Moving, Prepared, Released, Running};
    matches!(
        (before, after),
        (Moving, Moving | HandedOver | Kept)
            | (HandedOver, HandedOver | Released)
            | (Prepared, Prepared | Granted | Abandoned)
            | (Granted, Granted | Running)
    ) || before == after
}

impl Truth {
    fn record(&self, side: Side, session: SessionId, promise: Promise) -> Result<(), GuestError> {
        self.let_go_if_due();
        let now = self.now();
        let before = self.agent(side, |agent| *agent);
        let Some(before) = before else { return Ok(()) };
        if before.cut_off {
            return Err(GuestError("its lease was over".into()));
        }
        self.note(|| format!("{side:?} records {promise:?} at {now:?}"));
        if let Some((same, old)) = before.record
            && same == session
            && !may_follow(promise, old)
        {
            self.broken(format!("{promise:?} is recorded after {old:?}"));
        }
        if let Some((same, Promise::Prepared | Promise::HandedOver | Promise::Released)) =
            before.record
            && same != session
            && matches!(promise, Promise::Moving | Promise::Prepared)
        {
            return Err(GuestError(
                "another migration is to be settled first".into(),
            ));
        }
        self.agent(side, |agent| {
            agent.record = Some((session, promise));
            if promise == Promise::HandedOver {
                agent.held_until = None;
            }
        });
        Ok(())
    }

    /// The source's guest may stand still for `limit` from now on.
    pub fn hold(&self, limit: Duration) -> Result<(), GuestError> {
        let until = self.now().after(limit.saturating_add(GRACE));
        let cut_off = self.agent(Side::Source, |agent| {
            agent.held_until = Some(until);
            agent.cut_off
        });
        match cut_off {
            Some(true) => Err(GuestError("it goes on already".into())),
            _ => Ok(()),
        }
    }

    /// Whether the source's program was cut off from QEMU.
    pub fn is_cut_off(&self) -> bool {
        self.agent(Side::Source, |agent| agent.cut_off) == Some(true)
    }

    /// The source's program has settled its guest: nothing is held any more.
    pub fn hold_no_more(&self) {
        self.agent(Side::Source, |agent| agent.held_until = None);
    }

    /// Lets the source's guest go on if its lease is over; whether it did.
    pub fn let_go_if_due(&self) -> bool {
        let now = self.now();
        let is_due = self.agent(Side::Source, |agent| {
            let is_due = agent.held_until.is_some_and(|until| until <= now);
            if is_due {
                agent.held_until = None;
                agent.cut_off = true;
            }
            is_due
        });
        is_due == Some(true) && self.goes_on_by_agent()
    }

    /// When that is due.
    pub fn lease_ends(&self) -> Option<Instant> {
        self.agent(Side::Source, |agent| agent.held_until)?
    }

    /// The source's program is gone. Whether its guest goes on by that.
    pub fn source_is_killed(&self) -> bool {
        let promise = self.agent(Side::Source, |agent| {
            agent.held_until = None;
            agent.promise()
        });
        let is_promised = matches!(promise, Some(Some(Promise::HandedOver | Promise::Released)));
        !is_promised && self.goes_on_by_agent()
    }

    fn goes_on_by_agent(&self) -> bool {
        if self.source_runs() {
            return false;
        }
        self.note(|| "the agent lets the guest go on".into());
        self.source_resumed();
        true
    }
}
