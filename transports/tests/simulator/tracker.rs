//! The tracker of the guest's writes, at whose calls others do something, and which may fail.

use std::sync::Arc;

use pagelift_engine::dirty::{DirtyError, DirtySource, ManualTracker};
use pagelift_engine::memory::PageBitmap;
use pagelift_transports::sim::SimRng;

use super::crew;
use super::truth::{Mishap, Truth};

/// The tracker of the source's memory; may lose a mark if told to.
#[derive(Debug)]
pub struct SimTracker {
    inner: ManualTracker,
    truth: Arc<Truth>,
    armed: bool,
    /// Forget a page once in so many harvests.
    loses: Option<(SimRng, u64)>,
}

impl SimTracker {
    pub fn new(inner: ManualTracker, truth: &Arc<Truth>) -> Self {
        Self {
            inner,
            truth: Arc::clone(truth),
            armed: false,
            loses: None,
        }
    }

    pub fn lose_marks(&mut self, loses: Option<(SimRng, u64)>) {
        self.loses = loses;
    }

    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// What would be harvested now; takes it.
    pub fn marks(&mut self, into: &mut PageBitmap) {
        self.inner.harvest(into).expect("it cannot fail");
    }
}

impl DirtySource for SimTracker {
    fn arm(&mut self) -> Result<(), DirtyError> {
        crew::meanwhile();
        if self.truth.strikes(Mishap::Arm) {
            return Err(refused("arm"));
        }
        self.inner.arm()?;
        self.armed = true;
        crew::meanwhile();
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        if !self.armed {
            self.truth.broken("a harvest without arming".into());
        }
        crew::meanwhile();
        self.inner.harvest(into)?;
        if let Some((rng, one_in)) = &mut self.loses
            && rng.one_in(*one_in)
            && let Some(run) = into.next_run(rng.below(into.capacity().0), 1)
        {
            into.remove(run);
        }
        if self.truth.strikes(Mishap::Harvest) {
            return Err(refused("harvest"));
        }
        crew::meanwhile();
        Ok(())
    }

    fn give_back(&mut self, pages: &PageBitmap) {
        self.inner.give_back(pages);
    }

    fn disarm(&mut self) {
        self.armed = false;
        self.inner.disarm();
    }
}

fn refused(call: &'static str) -> DirtyError {
    DirtyError::Kernel {
        call,
        source: std::io::ErrorKind::OutOfMemory.into(),
    }
}
