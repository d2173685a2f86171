//! Scheduling delay: how late threads get a processor.
//!
//! The downtime is a chain of short steps of several threads on both sides, each of which wakes the
//! next one. On a busy machine a thread that was woken may wait for a tick of the scheduler,
//! milliseconds where its step takes microseconds. This cannot be measured step by step in advance,
//! but the coordinator of the source has timers all the while, and measures by how much it comes
//! too late for them. The target is assumed to be as busy. Over `n` independent wake-ups, mean and
//! variance add up.
//!
//! A thread that sleeps until its timer is served sooner than one that was just created or has used
//! up its time slice, as threads of the downtime are; and rare delays may not have been seen. So
//! samples are always combined with a [`PRIOR`].

use std::time::Duration;

use super::interval::{DEVIATIONS, Interval, SCHEDULER_TICK, finite};

/// Weight of the samples so far when another one comes in: about the last fifty count.
const MEMORY: f64 = 0.98;

/// Delays assumed beside the samples: their number, and the sums of seconds and of their squares.
/// A tick of the scheduler in three of a hundred wake-ups, and 50 us in each (the timer slack,
/// prctl(2)).
const PRIOR: [f64; 3] = [50.0, 0.0085, 24e-6];

/// Longest delay that counts. Squares would let a single longer one, of a machine that was suspended
/// or swapped, decide for seconds.
const MOST: Duration = Duration::from_millis(10);

/// The delays seen so far, older ones with less weight.
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedulingDelay {
    count: f64,
    sum: f64,
    squares: f64,
}

impl SchedulingDelay {
    /// A thread ran `by` after the time of its timer.
    pub fn late(&mut self, by: Duration) {
        let seconds = by.min(MOST).as_secs_f64();
        self.count = self.count * MEMORY + 1.0;
        self.sum = self.sum * MEMORY + seconds;
        self.squares = self.squares * MEMORY + seconds * seconds;
    }

    /// The sum of the delays of `wakes` wake-ups, one after the other. Delays are rare, so the likely
    /// value lies below the mean. It is at most three ticks of the scheduler, however busy the
    /// machine is: a load that may be over in a second must not keep a guest from moving.
    pub fn over(&self, wakes: f64) -> Interval {
        let [count, sum, squares] = PRIOR;
        let count = self.count + count;
        let mean = (self.sum + sum) / count;
        let variance = ((self.squares + squares) / count - mean * mean).max(0.0);
        let (mean, deviation) = (mean * wakes, (variance * wakes).sqrt());
        Interval::new(
            finite(mean - DEVIATIONS * deviation),
            finite((mean - deviation / 2.0).max(mean / 4.0)).min(SCHEDULER_TICK),
            finite(mean + DEVIATIONS * deviation).min(SCHEDULER_TICK * 3),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_noticed_and_a_calm_one_too() {
        let mut delay = SchedulingDelay::default();
        let unknown = delay.over(10.0);
        assert!(unknown.high() > Duration::from_millis(2), "{unknown}");
        for n in 0..300 {
            delay.late(Duration::from_micros(if n % 4 == 0 { 4000 } else { 60 }));
        }
        let busy = delay.over(10.0);
        assert!(busy.likely() > unknown.likely() * 2, "{busy}");
        assert!(busy.high() > unknown.high(), "{busy}");
        assert!(busy.high() <= SCHEDULER_TICK * 3, "{busy}");
        for _ in 0..1000 {
            delay.late(Duration::from_micros(60));
        }
        let calm = delay.over(10.0);
        assert!(calm.high() < unknown.high(), "{calm}");
    }

    #[test]
    fn no_single_delay_counts_for_ever() {
        let mut delay = SchedulingDelay::default();
        delay.late(Duration::from_secs(3600));
        assert!(delay.over(10.0).high() < Duration::from_millis(15));
    }
}
