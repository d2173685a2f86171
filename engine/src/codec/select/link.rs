//! The rate of the link, as far as the channels have found it.
//!
//! While a channel waits for the link, the link carries what flows, in the share of the time in which
//! it has something to carry. While no channel waits, it carries at least what flows, and is taken
//! to carry more and more until they wait.

use super::SendSample;

/// Bytes a second that a link is taken to carry at first, over all connections: 4 Gbit/s. It is
/// wrong on a fast one for some milliseconds, in which packing costs little. Raw bytes that went
/// into the buffers of a slow link can never be taken back.
const FIRST: f64 = 500e6;

/// Share of the time spent waiting from which on the link counts as full.
const FULL: f64 = 0.1;

/// Time over which a full link's rate is averaged.
const MEMORY_S: f64 = 0.25;

/// Time in which the rate doubles while the link is not full; before it ever was, a shorter one.
const DOUBLING_S: f64 = 0.4;
const FIRST_DOUBLING_S: f64 = 0.001;

/// Most that a link is taken to carry at all.
const MOST: f64 = 1e11;

/// Most that the link is taken to carry, times what flows, while it is not full.
const MOST_TIMES: f64 = 8.0;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkRate {
    channels: f64,
    /// Bytes a second, as found.
    rate: f64,
    /// The most that the link may carry, as the user says.
    cap: f64,
    /// Seconds that the average stands for.
    weight_s: f64,
    /// Whether the link was ever full.
    found: bool,
}

impl LinkRate {
    /// The link that so many channels share.
    pub(super) fn new(channels: u16) -> Self {
        Self {
            channels: channels.into(),
            rate: FIRST,
            cap: MOST,
            weight_s: 0.0,
            found: false,
        }
    }

    /// Bytes a second, at least 1.
    pub(super) fn bytes_per_s(&self) -> f64 {
        self.rate.min(self.cap).max(1.0)
    }

    /// Takes in what one channel found, on a machine that is `crowded` or not.
    pub(super) fn add(&mut self, sample: &SendSample, crowded: bool) {
        let (seconds, bytes) = (sample.elapsed.as_secs_f64(), sample.sent.0 as f64);
        let waited = sample.link_waits(crowded);
        self.cap = sample.cap.map_or(MOST, |cap| cap.0 as f64);
        if waited > FULL {
            let used_s = seconds * self.used(sample.carried.unwrap_or(waited), waited);
            let kept_s = self.weight_s * (-seconds / MEMORY_S).exp();
            self.rate = (self.rate * kept_s + bytes) / (kept_s + used_s);
            self.weight_s = kept_s + used_s;
            self.found = true;
        } else {
            let flows = bytes / seconds;
            let grown = if self.found {
                let grown = self.rate * (seconds / DOUBLING_S).exp2();
                grown.min(MOST_TIMES * flows)
            } else {
                (self.rate * (seconds / FIRST_DOUBLING_S).exp2()).min(MOST)
            };
            self.rate = self.rate.max(grown).max(flows);
            // The next full link is noticed at once.
            self.weight_s = 0.0;
        }
    }

    /// The share of the time in which the link has something to carry, where one connection has
    /// something for such a share, and its channel waits for another: at least as long as one waits,
    /// and the more channels the longer.
    fn used(&self, carried: f64, waited: f64) -> f64 {
        let idle = 1.0 - carried.clamp(waited, 1.0);
        1.0 - idle.powf(self.channels)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::units::{ByteCount, Rate};

    /// 50 ms in which all channels sent so many MB and one waited for a share of it.
    fn sample(megabytes: u64, waited: f64) -> SendSample {
        let elapsed = Duration::from_millis(50);
        SendSample {
            elapsed,
            waited: elapsed.mul_f64(waited),
            sent: ByteCount(megabytes * 1_000_000),
            ..SendSample::default()
        }
    }

    fn megabytes_per_s(link: &LinkRate) -> u64 {
        (link.bytes_per_s() / 1e6).round() as u64
    }

    #[test]
    fn a_full_link_carries_what_flows() {
        let mut link = LinkRate::new(1);
        link.add(&sample(5, 1.0), false);
        assert_eq!(
            megabytes_per_s(&link),
            100,
            "the first sample counts at once"
        );
        for _ in 0..20 {
            link.add(&sample(10, 1.0), false);
        }
        assert!(megabytes_per_s(&link) > 190, "what it was fades");
    }

    #[test]
    fn a_link_that_idles_for_a_part_of_the_time_carries_more_than_flows() {
        let half = sample(5, 0.5);
        let mut alone = LinkRate::new(1);
        alone.add(&half, false);
        assert_eq!(megabytes_per_s(&alone), 200);
        let mut shared = LinkRate::new(2);
        shared.add(&half, false);
        assert_eq!(
            megabytes_per_s(&shared),
            133,
            "the other one sends meanwhile"
        );
        let carried = Some(1.0);
        shared.add(&sample(5, 0.05), false);
        shared.add(&SendSample { carried, ..half }, false);
        assert_eq!(megabytes_per_s(&shared), 100, "the connection says so");
    }

    #[test]
    fn a_link_that_nobody_waits_for_is_tried() {
        let mut link = LinkRate::new(2);
        link.add(&sample(5, 0.0), false);
        assert!(
            link.bytes_per_s() >= MOST / 2.0,
            "nothing held it up so far"
        );
        link.add(&sample(5, 1.0), false);
        assert_eq!(megabytes_per_s(&link), 100);
        let mut grown = Vec::new();
        for _ in 0..40 {
            link.add(&sample(5, 0.0), false);
            grown.push(megabytes_per_s(&link));
        }
        assert_eq!(grown[7], 200, "it doubles in 0.4 s");
        assert_eq!(grown[39], 800, "up to eight times what flows");
        link.add(&sample(5, 0.9), false);
        assert_eq!(megabytes_per_s(&link), 101, "and is found again at once");
    }

    #[test]
    fn a_cap_is_no_less_than_the_link() {
        let mut link = LinkRate::new(2);
        let capped = |megabytes, waited| SendSample {
            cap: Some(Rate(50_000_000)),
            ..sample(megabytes, waited)
        };
        link.add(&capped(1, 0.0), false);
        assert_eq!(megabytes_per_s(&link), 50, "before it is full");
        link.add(&capped(1, 1.0), false);
        assert_eq!(megabytes_per_s(&link), 20, "a slower link counts");
    }

    #[test]
    fn on_a_crowded_machine_only_the_time_in_which_both_ends_wait_is_the_links() {
        let busy = SendSample {
            target_busy: Some(0.6),
            ..sample(50, 0.5)
        };
        let mut link = LinkRate::new(2);
        link.add(&busy, true);
        assert!(!link.found);
        link.add(&busy, false);
        assert!(link.found);
        let idle = SendSample {
            target_busy: Some(0.2),
            ..busy
        };
        let mut link = LinkRate::new(2);
        link.add(&idle, true);
        assert!(link.found);
    }
}
