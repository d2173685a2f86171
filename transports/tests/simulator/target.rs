//! The target's coordinator, which goes on while the source's process stands still.

use std::cell::{Cell, RefCell};

use pagelift_engine::migration::{Failure, GuestLocation, Target};
use pagelift_engine::pipeline::{Shared, Step, TargetSession};
use std::sync::Arc;

use super::phases::Phases;
use super::truth::Truth;

/// The coordinator, and how it ended.
pub struct TargetSide {
    session: RefCell<TargetSession<'static>>,
    machine: Arc<Shared<Target>>,
    phases: RefCell<Phases>,
    has_ended: Cell<bool>,
    result: RefCell<Option<Result<bool, Failure>>>,
}

impl TargetSide {
    pub fn new(session: TargetSession<'static>, machine: Arc<Shared<Target>>) -> Self {
        Self {
            session: RefCell::new(session),
            machine,
            phases: RefCell::default(),
            has_ended: Cell::new(false),
            result: RefCell::default(),
        }
    }

    /// Steps it, unless it has ended. If it then does not know whose the guest is, a person may
    /// have the `courage` to decide.
    pub fn step(&self, truth: &Truth, courage: impl FnOnce() -> bool) -> Option<Step> {
        if self.has_ended() {
            return None;
        }
        let mut session = self.session.borrow_mut();
        let step = session.step();
        let phase = self.machine.look(Target::phase);
        self.phases.borrow_mut().saw(truth, "target", phase);
        let ended = match step {
            Ok(Step::Done) => Ok(session.verify()),
            Ok(step) => return Some(step),
            Err(failure) => Err(failure),
        };
        session.acceptor().close();
        if let Err(failure) = &ended
            && failure.guest == GuestLocation::Unknown
            && courage()
        {
            truth.left_to_a_person();
        }
        self.has_ended.set(true);
        *self.result.borrow_mut() = Some(ended);
        Some(Step::Done)
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// Whether the source compared the digests, or why the guest did not arrive.
    pub fn take_result(&self) -> Option<Result<bool, Failure>> {
        self.result.borrow_mut().take()
    }
}
