//! Where the pipeline takes the time from.

use crate::units::Instant;

/// A monotonic clock.
pub trait Clock: Send + Sync {
    /// Time since the clock's origin.
    fn now(&self) -> Instant;
}

/// The system's monotonic clock, from the moment it was made.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(std::time::Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        // One second ahead of the origin, so that no real moment is the default instant.
        Instant(1_000_000_000).after(self.0.elapsed())
    }
}
