//! The rate at which the target places data, from its acknowledgements.

use std::time::Duration;

use crate::units::{ByteCount, Instant, Rate};

/// Shortest time over which a rate is measured.
const SAMPLE: Duration = Duration::from_millis(50);

/// Seconds after which a sample counts a third. Acknowledgements come every few frames, so short
/// samples of a slow link are coarse.
const MEMORY_S: f64 = 0.4;

/// Least standard deviation of the rate's logarithm.
const LEAST_SIGMA: f64 = 0.05;

/// The rate at which the target places data.
///
/// Placed, not accepted by a socket: bytes in a socket's buffer are still to be carried. Time in
/// which there is nothing to send does not count. Samples of at least 50 ms are averaged with
/// exponentially falling weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkRate {
    mean: Option<f64>,
    /// Mean square of the distance between the logarithms of the samples and of the mean.
    variance: f64,
    /// Start of the sample being taken, and bytes placed in it.
    open: Option<(Instant, u64)>,
    /// Whether the sample being taken, and the mean, may lie below what the link carries.
    open_is_low: bool,
    mean_is_low: bool,
}

impl LinkRate {
    /// Data begins to flow.
    pub fn begin(&mut self, now: Instant) {
        self.open.get_or_insert((now, 0));
    }

    /// The target has placed `bytes` more.
    pub fn placed(&mut self, now: Instant, bytes: ByteCount) {
        let Some((since, sum)) = &mut self.open else {
            return;
        };
        *sum += bytes.0;
        if now.since(*since) >= SAMPLE {
            let seconds = now.since(*since).as_secs_f64();
            let sample = *sum as f64 / seconds;
            self.add(sample, seconds);
            self.open = Some((now, 0));
        }
    }

    /// The sample being taken holds references to pages that the target has already: few bytes, in
    /// a time that the link does not decide. It counts only until there is a better one.
    pub fn sent_references(&mut self) {
        self.open_is_low = true;
    }

    /// Nothing is left to be placed. A sample that is too short counts only if there is no other.
    pub fn end(&mut self, now: Instant) {
        if let Some((since, sum)) = self.open.take()
            && self.mean.is_none()
            && let Some(rate) = Rate::over(ByteCount(sum), now.since(since))
            && sum > 0
        {
            self.add(rate.0 as f64, SAMPLE.as_secs_f64());
        }
    }

    /// The rate; `None` before the first sample.
    pub fn rate(&self) -> Option<Rate> {
        self.mean.map(|mean| Rate(mean as u64))
    }

    /// Standard deviation of the rate's logarithm.
    pub fn sigma(&self) -> f64 {
        self.variance.sqrt().max(LEAST_SIGMA)
    }

    fn add(&mut self, sample: f64, seconds: f64) {
        let is_low = std::mem::take(&mut self.open_is_low);
        match self.mean {
            Some(_) if is_low && !self.mean_is_low => {}
            Some(mean) if !self.mean_is_low => {
                let weight = 1.0 - (-seconds / MEMORY_S).exp();
                let off = (sample.max(1.0) / mean.max(1.0)).ln();
                self.variance += (off * off - self.variance) * weight;
                self.mean = Some(mean + (sample - mean) * weight);
            }
            _ => {
                self.mean = Some(sample);
                self.mean_is_low = is_low;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn a_rate_of_references_counts_only_until_there_is_a_better_one() {
        let mut link = LinkRate::default();
        link.begin(at_ms(0));
        link.sent_references();
        link.placed(at_ms(50), ByteCount(100));
        assert_eq!(link.rate(), Some(Rate(2000)), "better than none");
        link.placed(at_ms(100), ByteCount(50_000));
        assert_eq!(link.rate(), Some(Rate(1_000_000)));
        link.sent_references();
        link.placed(at_ms(150), ByteCount(100));
        assert_eq!(link.rate(), Some(Rate(1_000_000)));
        link.placed(at_ms(200), ByteCount(100_000));
        let rate = link.rate().unwrap().0;
        assert!(
            (1_050_000..1_400_000).contains(&rate),
            "a mean of both: {rate}"
        );
    }

    #[test]
    fn a_steady_link_is_measured_exactly_and_pauses_do_not_count() {
        let mut link = LinkRate::default();
        for start in [0, 10_000] {
            link.begin(at_ms(start));
            for step in 1..=10 {
                link.placed(at_ms(start + step * 20), ByteCount(2_000_000));
            }
            link.end(at_ms(start + 200));
        }
        assert_eq!(link.rate(), Some(Rate(100_000_000)));
    }

    #[test]
    fn a_short_round_gives_a_rate_only_when_there_is_none() {
        let mut link = LinkRate::default();
        link.begin(at_ms(0));
        link.placed(at_ms(5), ByteCount(1_000_000));
        link.end(at_ms(10));
        assert_eq!(link.rate(), Some(Rate(100_000_000)));
        link.begin(at_ms(20));
        link.placed(at_ms(21), ByteCount(1));
        link.end(at_ms(22));
        assert_eq!(link.rate(), Some(Rate(100_000_000)));
    }
}
