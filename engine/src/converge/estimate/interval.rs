//! A prediction interval of a duration.
//!
//! Every part of the downtime is estimated as an [`Interval`]: the likely value, and two ends that
//! are meant to hold the truth in nine of ten cases ([`COVERAGE`]). Parts that follow each other
//! add up. A delay in one part seldom comes with a delay in the next, so the upper half-widths add
//! as the root of the sum of their squares. The lower ends add as they are: on a calm machine all
//! parts are quick at once (docs/decisions/022).

use std::fmt;
use std::time::Duration;

/// Part of the cases in which an interval is meant to hold the truth.
pub const COVERAGE: f64 = 0.9;

/// Standard deviations to either side of the middle that hold [`COVERAGE`] of a normal
/// distribution (its quantile at 0.95).
pub(in crate::converge) const DEVIATIONS: f64 = 1.645;

/// Longest time for which the scheduler leaves a processor to a thread while another one waits for
/// it: a tick of a kernel with CONFIG_HZ=250.
pub(in crate::converge) const SCHEDULER_TICK: Duration = Duration::from_millis(4);

/// A duration that is known with an uncertainty: `low <= likely <= high`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    low: Duration,
    likely: Duration,
    high: Duration,
}

impl Interval {
    /// From `low` to `high`, with `likely` between them. Ends on the wrong side are moved to
    /// `likely`.
    pub fn new(low: Duration, likely: Duration, high: Duration) -> Self {
        Self {
            low: low.min(likely),
            likely,
            high: high.max(likely),
        }
    }

    /// As [`new`](Self::new), for constants: low, likely and high, in this order.
    pub(in crate::converge) const fn in_order([low, likely, high]: [Duration; 3]) -> Self {
        Self { low, likely, high }
    }

    /// A duration that is known exactly.
    pub fn exactly(time: Duration) -> Self {
        Self::new(time, time, time)
    }

    /// `likely` within a factor whose logarithm has the standard deviation `sigma`.
    pub fn within_factor(likely: Duration, sigma: f64) -> Self {
        let factor = (sigma.max(0.0) * DEVIATIONS).exp();
        Self::new(
            likely.div_f64(factor),
            likely,
            finite(likely.as_secs_f64() * factor),
        )
    }

    /// Predicts the next one of a few measurements; `None` without any.
    ///
    /// The median is likely. Of `k` draws the next lies outside their range in 2 of `k + 1` cases,
    /// so the range is stretched by half of its length to either side, and by a tenth of the median,
    /// so that a single measurement is not taken for certain. An outlier must not decide for all
    /// that follows: the upper end is at most three times the median and two ticks of the
    /// scheduler.
    pub fn of_samples(samples: &[Duration]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let likely = sorted[sorted.len() / 2];
        let range = most - least;
        Some(Self::new(
            least.saturating_sub(range / 2 + likely / 10),
            likely,
            (most + range / 2 + likely / 10).min(likely * 3 + SCHEDULER_TICK * 2),
        ))
    }

    /// The lower end.
    pub fn low(self) -> Duration {
        self.low
    }

    /// The likely value.
    pub fn likely(self) -> Duration {
        self.likely
    }

    /// The upper end.
    pub fn high(self) -> Duration {
        self.high
    }

    /// Whether the interval holds `time`.
    pub fn holds(self, time: Duration) -> bool {
        (self.low..=self.high).contains(&time)
    }

    /// The sum of this and of `other`, which follows it; see the head of this module.
    #[must_use]
    pub fn then(self, other: Self) -> Self {
        let likely = self.likely + other.likely;
        let up = |interval: Self| (interval.high - interval.likely).as_secs_f64();
        Self::new(
            self.low + other.low,
            likely,
            likely + finite(up(self).hypot(up(other))),
        )
    }
}

/// Converts seconds that may be negative, infinite or no number: to 0 to 370 days.
pub(in crate::converge) fn finite(seconds: f64) -> Duration {
    // NaN becomes zero: `clamp` keeps it, and the conversion refuses it.
    Duration::try_from_secs_f64(seconds.clamp(0.0, 3.2e7)).unwrap_or_default()
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let digits = usize::from(ms(self.high) < 100.0);
        write!(
            f,
            "{:.digits$} ms ({:.digits$} to {:.digits$})",
            ms(self.likely),
            ms(self.low),
            ms(self.high)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn upper_ends_add_as_squares_and_lower_ends_as_they_are() {
        let sum = Interval::new(ms(7), ms(10), ms(13)).then(Interval::new(ms(16), ms(20), ms(24)));
        assert_eq!(sum, Interval::new(ms(23), ms(30), ms(35)));
        assert_eq!(sum.to_string(), "30.0 ms (23.0 to 35.0)");
        let exact = Interval::exactly(ms(2));
        assert_eq!(sum.then(exact), Interval::new(ms(25), ms(32), ms(37)));
    }

    #[test]
    fn a_span_is_in_order_whatever_it_is_made_of() {
        let interval = Interval::new(ms(9), ms(5), ms(2));
        assert_eq!(
            (interval.low(), interval.likely(), interval.high()),
            (ms(5), ms(5), ms(5))
        );
        assert!(interval.holds(ms(5)) && !interval.holds(ms(6)));
        let wide = Interval::within_factor(ms(100), 1e9);
        assert_eq!(wide.low(), Duration::ZERO);
        assert!(wide.high() > Duration::from_secs(1000));
    }

    #[test]
    fn samples_give_their_median_and_more_than_their_range() {
        assert_eq!(Interval::of_samples(&[]), None);
        let interval = Interval::of_samples(&[ms(4), ms(9), ms(5)]).unwrap();
        assert_eq!(interval.likely(), ms(5));
        assert!(
            interval.low() < ms(4) && interval.high() > ms(9),
            "{interval:?}"
        );
        let outlier = Interval::of_samples(&[ms(4), ms(400), ms(5)]).unwrap();
        assert_eq!(outlier.high(), ms(23), "thrice five, and two ticks");
        let single = Interval::of_samples(&[ms(4)]).unwrap();
        assert!(single.holds(ms(4)) && single.low() < ms(4) && single.high() > ms(4));
    }
}
