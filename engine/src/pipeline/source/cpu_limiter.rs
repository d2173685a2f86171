//! Rests a channel's thread so that all together keep to a limit of the processors.

use std::time::Duration;

use crate::codec::select::CpuLimit;
use crate::units::Instant;

/// Shortest rest: threads sleep too long by some 60 us whatever they ask for.
const SHORTEST: Duration = Duration::from_millis(2);

/// The rests of one thread. Pure: time is an argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct CpuLimiter {
    limit: CpuLimit,
    workers: u16,
    /// Rest that is due and not yet taken.
    due: Duration,
    /// While it rests: since when, and until when.
    resting: Option<(Instant, Instant)>,
}

impl CpuLimiter {
    /// For one of `workers` threads.
    pub(super) fn new(limit: CpuLimit, workers: u16) -> Self {
        Self {
            limit,
            workers,
            due: Duration::ZERO,
            resting: None,
        }
    }

    /// Whether there is a limit at all.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.percent.is_some()
    }

    /// The worker has used `busy` of a processor.
    pub(super) fn worked(&mut self, now: Instant, busy: Duration) {
        self.due += self.limit.pause(busy, self.workers);
        if self.due >= SHORTEST {
            self.resting = Some((now, now.after(self.due)));
        }
    }

    /// Until when it must rest; `None` if it may work.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        let (_, until) = self.resting?;
        (now < until).then_some(until)
    }

    /// The worker goes on; how long it has rested. What it rested too long is not due again.
    pub(super) fn end(&mut self, now: Instant) -> Duration {
        let Some((since, _)) = self.resting.take() else {
            return Duration::ZERO;
        };
        let rested = now.since(since);
        self.due = self.due.saturating_sub(rested);
        rested
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of a processor that a worker gets whose every rest is `late` too long.
    fn share(limit: &str, workers: u16, late: Duration) -> f64 {
        let limit = limit.parse().unwrap();
        let mut limiter = CpuLimiter::new(limit, workers);
        let begin = Instant(1_000_000_000);
        let (mut now, mut worked) = (begin, Duration::ZERO);
        for step in 0..10_000u64 {
            let busy = Duration::from_micros(50 + step % 200);
            now = now.after(busy);
            worked += busy;
            limiter.worked(now, busy);
            if let Some(until) = limiter.until(now) {
                now = until.after(late);
                assert_eq!(limiter.until(now), None);
                limiter.end(now);
            }
        }
        worked.as_secs_f64() / now.since(begin).as_secs_f64()
    }

    #[test]
    fn a_worker_gets_its_share_and_no_more() {
        let late = Duration::from_micros(60);
        assert_eq!(share("3", 1, late), 1.0);
        assert_eq!(share("200%", 2, late), 1.0);
        for (limit, workers, due) in [("50%", 1, 0.5), ("10%", 1, 0.1), ("100%", 4, 0.25)] {
            let share = share(limit, workers, late);
            assert!(share <= due * 1.001, "{limit} of {workers}: {share}");
            assert!(share >= due * 0.95, "{limit} of {workers}: {share}");
        }
    }
}
