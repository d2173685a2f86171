//! How a worker thread spent its time of late, and what its connection let through.
//!
//! Sums over the last [`MEMORY_NS`] of the thread's time, older parts of which fade. In the
//! beginning they hold a guess, which counts for [`GUESS_NS`]: that of a rather slow link. It is
//! wrong on a fast one for some milliseconds, in which packing costs little; raw bytes that went
//! into the buffers of a slow link can never be taken back.

/// Time that the sums hold, in nanoseconds: a stalled write is a part of it, and a change of the
/// link shows soon.
const MEMORY_NS: f64 = 20e6;

/// Time that the guess counts for, in nanoseconds.
const GUESS_NS: f64 = 3e6;

/// What a connection is guessed to let through, in bytes a second: two of them 3.2 Gbit/s, as
/// far above 1 Gbit/s as below 10.
const GUESS_RATE: f64 = 200e6;

/// The guess of the share of its time in which the thread works.
const GUESS_WORKING: f64 = 0.5;

/// Least share of its time that a thread is taken to work.
const LEAST_WORKING: f64 = 1e-3;

/// Most by which others can slow a thread down, as far as it is counted.
const MOST_DILATION: f64 = 8.0;

/// See the module. Times are in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recent {
    /// Working, or ready to and without a processor.
    busy: f64,
    /// The latter alone.
    delayed: f64,
    waited: f64,
    /// Bytes sent in that time.
    bytes: f64,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self {
            busy: GUESS_NS * GUESS_WORKING,
            delayed: 0.0,
            waited: GUESS_NS * (1.0 - GUESS_WORKING),
            bytes: GUESS_NS * 1e-9 * GUESS_RATE,
        }
    }

    /// The thread was `busy`, and for part of that `delayed`; then it `waited` for the connection
    /// to take `bytes`.
    pub(super) fn spent(&mut self, busy: f64, delayed: f64, waited: f64, bytes: f64) {
        let keep = (MEMORY_NS / (self.total() + busy + waited)).min(1.0);
        self.busy = self.busy * keep + busy;
        self.delayed = self.delayed * keep + delayed;
        self.waited = self.waited * keep + waited;
        self.bytes = self.bytes * keep + bytes;
    }

    /// The share of the time in which the thread did not wait, above 0.
    pub(super) fn working(&self) -> f64 {
        (self.busy / self.total()).max(LEAST_WORKING)
    }

    /// The time that a unit of processor time took, at least 1: others want the processor too.
    pub(super) fn dilation(&self) -> f64 {
        let own = (self.busy - self.delayed).max(self.busy / MOST_DILATION);
        if own > 0.0 { self.busy / own } else { 1.0 }
    }

    /// Bytes a second that the connection took.
    pub(super) fn rate(&self) -> f64 {
        self.bytes * 1e9 / self.total()
    }

    fn total(&self) -> f64 {
        self.busy + self.waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guess_is_forgotten_within_a_memory() {
        let mut recent = Recent::new();
        assert_eq!((recent.working(), recent.dilation()), (0.5, 1.0));
        assert!((recent.rate() - GUESS_RATE).abs() < 1.0);
        // 1 GB/s, a fifth of the time waiting, and half of the rest without a processor.
        for _ in 0..200 {
            recent.spent(0.8e6, 0.4e6, 0.2e6, 1e6);
        }
        assert!((recent.working() - 0.8).abs() < 1e-3);
        assert!((recent.dilation() - 2.0).abs() < 1e-3);
        assert!((recent.rate() / 1e9 - 1.0).abs() < 1e-3);
    }

    #[test]
    fn a_write_that_took_long_says_at_once_what_a_slow_link_is() {
        let mut recent = Recent::new();
        recent.spent(1e6, 0.0, 40e6, 250e3);
        assert!(recent.working() < 0.06, "{}", recent.working());
        assert!(recent.rate() < 13e6, "{}", recent.rate());
    }

    #[test]
    fn a_thread_that_only_waited_has_worked_a_little() {
        let mut recent = Recent::new();
        for _ in 0..100 {
            recent.spent(0.0, 0.0, 1e9, 1.0);
        }
        assert_eq!(recent.working(), LEAST_WORKING);
        assert!(recent.dilation() >= 1.0);
    }
}
