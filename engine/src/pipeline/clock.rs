//! Where the pipeline takes the time from.

use std::fs::File;
use std::os::unix::fs::FileExt;
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

    /// Time that the calling thread was ready to run and had no processor; zero where nobody can
    /// tell.
    fn thread_delay(&self) -> Duration {
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

    fn thread_delay(&self) -> Duration {
        SCHEDSTAT.with(|file| {
            let mut text = [0; 96];
            let read = file
                .as_ref()
                .and_then(|file| file.read_at(&mut text, 0).ok());
            delay_in(&text[..read.unwrap_or(0)])
        })
    }
}

thread_local! {
    /// Kept open: reading it again then costs 1 us.
    static SCHEDSTAT: Option<File> = File::open("/proc/thread-self/schedstat").ok();
}

/// The second number of a `schedstat` file (proc(5)): nanoseconds waited on a run queue.
fn delay_in(text: &[u8]) -> Duration {
    let numbers = std::str::from_utf8(text).ok();
    let delay = numbers.and_then(|numbers| numbers.split_ascii_whitespace().nth(1));
    let delay_ns = delay.and_then(|delay| delay.parse().ok());
    Duration::from_nanos(delay_ns.unwrap_or(0))
}

/// What a clock of the processor says.
pub(super) fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_the_second_number() {
        assert_eq!(delay_in(b"123456 7890 12\n"), Duration::from_nanos(7890));
        for text in [&b""[..], b"12", b"1 x 3", b"\xff 2 3"] {
            assert_eq!(delay_in(text), Duration::ZERO);
        }
    }
}
