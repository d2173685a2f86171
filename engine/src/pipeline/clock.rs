//! Where the pipeline takes the time from.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::units::Instant;

/// A monotonic clock, and that of the processor.
pub trait Clock: Send + Sync {
    /// Time since the clock's origin.
    fn now(&self) -> Instant;

    /// Processor time that the calling thread has used. Zero under virtual time, in which
    /// nothing takes any.
    fn thread_cpu(&self) -> Duration {
        Duration::ZERO
    }
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

    fn thread_cpu(&self) -> Duration {
        cpu_time(ClockId::ThreadCPUTime)
    }
}

/// What a clock of the processor says.
pub(super) fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
