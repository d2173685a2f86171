//! How late threads get to run.
//!
//! The downtime is a chain of short steps of several threads on both sides, each waking the next.
//! On a busy machine a thread that could run sometimes waits for a slice of another one's time,
//! milliseconds where the step itself takes microseconds. That cannot be rehearsed in advance, but
//! the source's coordinator has timers all the while, and sees by how much it comes too late for
//! them; the target is assumed to be as busy. Of `n` wake-ups that are late independently, mean
//! and variance add up.
//!
//! A thread that sleeps for its timer is served sooner than one that was just made or has used up
//! its slice, as those of the downtime are; and rare delays may not have been seen. So the samples
//! never count alone, but together with a [`PRIOR`].

use std::time::Duration;

use super::interval::{DEVIATIONS, Interval, TICK, finite};

/// Weight of the history when a sample comes in: the last fifty or so count.
const MEMORY: f64 = 0.98;

/// Delays assumed beside the samples: their count, and the sums of seconds and of their squares.
/// A tick of 4 ms (CONFIG_HZ=250), after which the scheduler takes the processor from another
/// thread, in three of a hundred wake-ups; and 50 us in each (the timer slack, prctl(2)).
const PRIOR: [f64; 3] = [50.0, 0.0085, 24e-6];

/// Delay of a sample that counts at most: squares would let a single longer one, of a machine that
/// was suspended or swapped, decide for seconds.
const MOST: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedulingDelay {
    count: f64,
    sum: f64,
    squares: f64,
}

impl SchedulingDelay {
    /// A thread got to run `by` after its time.
    pub fn late(&mut self, by: Duration) {
        let seconds = by.min(MOST).as_secs_f64();
        self.count = self.count * MEMORY + 1.0;
        self.sum = self.sum * MEMORY + seconds;
        self.squares = self.squares * MEMORY + seconds * seconds;
    }

    /// What `wakes` wake-ups, one after the other, lose in all. Delays are rare, so that what is
    /// likely lies below the mean. At most three ticks (`TICK`), however busy the machine is: no
    /// guest should be kept from moving by what may be over in a second.
    pub fn over(&self, wakes: f64) -> Interval {
        let [count, sum, squares] = PRIOR;
        let count = self.count + count;
        let mean = (self.sum + sum) / count;
        let variance = ((self.squares + squares) / count - mean * mean).max(0.0);
        let (mean, deviation) = (mean * wakes, (variance * wakes).sqrt());
        Interval::new(
            finite(mean - DEVIATIONS * deviation),
            finite((mean - deviation / 2.0).max(mean / 4.0)).min(TICK),
            finite(mean + DEVIATIONS * deviation).min(TICK * 3),
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
        assert!(busy.high() <= TICK * 3, "{busy}");
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
