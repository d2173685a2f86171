//! A clock that moves only when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pagelift_engine::pipeline::Clock;
use pagelift_engine::units::Instant;

/// A clock that its owner moves. Clones show the same time.
#[derive(Clone, Debug)]
pub struct SimClock(Arc<AtomicU64>);

impl Default for SimClock {
    /// Starts at one second, so that no moment is the default instant.
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(1_000_000_000)))
    }
}

impl SimClock {
    /// Moves on by `time`.
    pub fn advance(&self, time: Duration) {
        self.advance_to(self.now().after(time));
    }

    /// Moves on to `until`; a moment that has passed changes nothing.
    pub fn advance_to(&self, until: Instant) {
        self.0.fetch_max(until.0, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant(self.0.load(Ordering::Relaxed))
    }
}
