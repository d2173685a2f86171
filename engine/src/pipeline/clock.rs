//! Where the pipeline takes the time from.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::thread::available_parallelism;
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

    /// Time for which processors were idle, all together, to 10 ms, since an origin of its own. `None`
    /// where nobody can tell, or where this process may not use them.
    fn idle(&self) -> Option<Duration> {
        None
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

    fn idle(&self) -> Option<Duration> {
        let mut text = [0; 64];
        let read = IDLE.as_ref()?.read_at(&mut text, 0).ok()?;
        idle_in(&text[..read])
    }
}

thread_local! {
    /// Kept open: reading it again then costs 1 to 3 us.
    static SCHEDSTAT: Option<File> = File::open("/proc/thread-self/schedstat").ok();
}

/// The account of idle time, if this process may use all processors: what is idle is then there for
/// it. Kept open, as above.
static IDLE: LazyLock<Option<File>> = LazyLock::new(|| {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let processors = processors_in(&online)?;
    // Affinities count here, and quotas of cgroups.
    let usable = available_parallelism().ok()?.get() >= processors.into();
    usable.then(|| File::open("/proc/uptime").ok())?
});

/// How many processors a list such as `0-3,8` names (Documentation/admin-guide/cputopology.rst).
fn processors_in(list: &str) -> Option<u16> {
    list.trim().split(',').try_fold(0_u16, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// The second number of `/proc/uptime` (proc_uptime(5)): seconds that processors were idle, all
/// together, with two decimals.
fn idle_in(text: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?;
    let idle: f64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Duration::try_from_secs_f64(idle).ok()
}

/// The second number of a `schedstat` file (proc(5)): nanoseconds waited on a run queue.
fn delay_in(text: &[u8]) -> Duration {
    let numbers = std::str::from_utf8(text).ok();
    let delay = numbers.and_then(|numbers| numbers.split_ascii_whitespace().nth(1));
    let delay_ns = delay.and_then(|delay| delay.parse().ok());
    Duration::from_nanos(delay_ns.unwrap_or(0))
}

/// CPU time this process has used.
pub fn process_cpu() -> Duration {
    cpu_time(ClockId::ProcessCPUTime)
}

/// What a clock of the processor says.
fn cpu_time(clock: ClockId) -> Duration {
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

    #[test]
    fn idle_time_is_the_second_number_too() {
        assert_eq!(
            idle_in(b"35322.09 17850.80\n"),
            Some(Duration::from_millis(17_850_800))
        );
        for text in [&b""[..], b"12", b"1 x 3", b"1 -2", b"1 nan", b"\xff 2 3"] {
            assert_eq!(idle_in(text), None);
        }
    }

    #[test]
    fn processors_are_counted_in_a_list_of_ranges() {
        for (list, count) in [("0\n", 1), ("0-1\n", 2), ("0-3,8,10-11\n", 7)] {
            assert_eq!(processors_in(list), Some(count), "{list}");
        }
        for list in ["", "\n", "a", "3-1", "0-", "0-65535", "0-40000,0-40000"] {
            assert_eq!(processors_in(list), None, "{list}");
        }
    }
}
