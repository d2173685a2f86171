//! A person at the monitors of both QEMUs, at any time: `cont`, `stop`, `migrate_cancel`, and
//! `pagelift settle`, run by whoever wants to.
//!
//! What a monitor does, as QEMU 10.0, the agent and the driver have it:
//!
//! - `cont` is refused by a source whose migration is under way, and by either side whose program is gone
//!   and whose journal is open: the agent holds it (docs/decisions/061). A source that kept its guest, and
//!   a target that was granted it, obey.
//! - `cont` at a target that waits only says what it does when it is loaded. The driver sees its guest start
//!   by itself, and ends that QEMU before the source is told anything.
//! - A target that has some of the guest and has promised nothing ends when its program is killed, or lets
//!   the guest go.
//! - `migrate_cancel` at a source whose guest stands still makes it run on, whoever holds it; its QEMU does
//!   not commit any more, and the driver hears that it ended. After the commit it does nothing.
//! - `stop` and `cont` before that: a guest that was stopped moves as well, and stays stopped.
//! - `settle` finds no monitor where a program is alive. Alone it decides what needs no other side.
//!
//! Left out is what is not promised (docs/security.md): `cont` at a second monitor of a side that has
//! committed or is loaded, while its program is alive.

use std::time::Duration;

use pagelift_engine::guest::Promise;
use pagelift_engine::migration::settle::{Evidence, Observed, Owner, settle};

use super::agents::Agent;
use super::memory::Side;
use super::truth::Truth;

/// What a person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Continue(Side),
    /// Stops the guest, and lets it go on after that time.
    Stop(Duration),
    CancelMigration,
    Settle,
}

fn is_open(promise: Option<Promise>) -> bool {
    use Promise::{HandedOver, Prepared, Released};
    matches!(promise, Some(Prepared | HandedOver | Released))
}

impl Truth {
    /// A person does that; `gone` says which programs, source first, are there no more.
    pub fn person_acts(&self, deed: Deed, gone: [bool; 2]) {
        self.note(|| format!("a person: {deed:?}, programs gone: {gone:?}"));
        match deed {
            Deed::Continue(side) if gone[side as usize] => self.continues_alone(side),
            Deed::Continue(Side::Source) => {}
            Deed::Continue(Side::Target) => self.starts_when_loaded(),
            Deed::Stop(time) => self.stop_by_hand(time),
            Deed::CancelMigration => self.cancel_by_hand(),
            Deed::Settle => self.settle_now(gone),
        }
    }

    /// `cont` at a QEMU whose program is gone.
    fn continues_alone(&self, side: Side) {
        let Some(promise) = self.agent(side, |agent| agent.promise()) else {
            return;
        };
        if is_open(promise) {
            self.reach("cont refused in doubt");
            return self.note(|| "refused: its guest may be the other's".into());
        }
        let (runs, is_there) = match side {
            Side::Source => (self.source_runs(), true),
            Side::Target => (self.target_runs(), self.has_target_loaded()),
        };
        if runs || !is_there {
            return;
        }
        self.reach("cont obeyed");
        match side {
            Side::Source => self.source_resumed(),
            Side::Target => self.target_goes_on(),
        }
    }

    /// `pagelift settle` now, at whatever monitor is free.
    fn settle_now(&self, gone: [bool; 2]) {
        let [Some(source), Some(target)] =
            [Side::Source, Side::Target].map(|side| self.agent(side, |agent| *agent))
        else {
            return;
        };
        match gone {
            [true, true] => self.settle_both(source, target),
            [true, false] => self.settle_alone(Side::Source, source),
            [false, true] => self.settle_alone(Side::Target, target),
            [false, false] => {}
        }
    }

    /// One side, while the program of the other holds its monitor.
    fn settle_alone(&self, side: Side, agent: Agent) {
        let one = self.shows(side, agent);
        let needs_other = one.observed != Observed::Running && is_open(agent.promise());
        if needs_other || agent.promise().is_none() {
            return;
        }
        const NOT_ASKED: Evidence = Evidence {
            observed: Observed::Stopped,
            record: None,
        };
        let owner = match side {
            Side::Source => settle(&one, &NOT_ASKED),
            Side::Target => settle(&NOT_ASKED, &one),
        };
        self.reach("settled while a program was there");
        match (side, owner) {
            (Side::Source, Ok(Owner::Source)) => self.keep(),
            (Side::Target, Ok(Owner::Target)) => self.take_over(),
            (Side::Target, Ok(Owner::Source)) => self.end_target(),
            _ => {}
        }
    }

    fn settle_both(&self, source: Agent, target: Agent) {
        if source.promise().is_none() && target.promise().is_none() {
            // It never began.
            return;
        }
        let (source, target) = (
            self.shows(Side::Source, source),
            self.shows(Side::Target, target),
        );
        self.mark_settled();
        match settle(&source, &target) {
            Ok(Owner::Source) => {
                self.end_target();
                self.keep();
            }
            Ok(Owner::Target) => {
                self.take_over();
                self.promise(Side::Source, Promise::Released);
            }
            Err(why) => self.broken(format!("it cannot be settled: {why}")),
        }
        if self.source_runs() == self.target_runs() {
            self.broken("it was settled, and does not run on exactly one side".into());
        }
    }

    /// Both programs are gone. A person types `cont` at both QEMUs, settles, and settles once more.
    pub fn person_settles(&self) {
        for deed in [
            Deed::Continue(Side::Source),
            Deed::Continue(Side::Target),
            Deed::Settle,
            Deed::Settle,
        ] {
            self.person_acts(deed, [true; 2]);
        }
    }

    /// A sender is started again before anybody has settled: whether it may begin. One whose guest
    /// may be the other's does not.
    pub fn may_begin_again(&self) -> bool {
        let promise = self.agent(Side::Source, |agent| agent.promise());
        let may = !is_open(promise.flatten()) || self.source_runs();
        if !may {
            self.reach("refused to begin again in doubt");
        }
        may
    }

    fn shows(&self, side: Side, agent: Agent) -> Evidence {
        let observed = match side {
            Side::Source if self.source_runs() => Observed::Running,
            Side::Target if self.target_runs() => Observed::Running,
            Side::Target if self.is_target_ended() => Observed::Gone,
            _ => Observed::Stopped,
        };
        Evidence {
            observed,
            record: agent.record().filter(|_| observed != Observed::Gone),
        }
    }

    fn keep(&self) {
        self.promise(Side::Source, Promise::Kept);
        if !self.source_runs() {
            self.source_resumed();
        }
    }

    fn take_over(&self) {
        self.promise(Side::Target, Promise::Granted);
        if !self.target_runs() {
            self.target_goes_on();
        }
        self.promise(Side::Target, Promise::Running);
    }

    fn end_target(&self) {
        if self.target_runs() {
            self.broken("a target that runs the guest is ended".into());
        }
        self.promise(Side::Target, Promise::Abandoned);
        self.target_ends();
    }

    /// What a settling command records, where there is a record of that side.
    fn promise(&self, side: Side, promise: Promise) {
        self.agent(side, |agent| {
            if let Some((session, _)) = agent.record() {
                agent.set_record(session, promise);
            }
        });
    }
}
