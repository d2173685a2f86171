//! A time that is not known exactly.
//!
//! Every cost of the downtime is estimated as a [`Interval`]: what is likely, and an interval that is
//! meant to hold the truth in nine of ten cases ([`COVERAGE`]). Costs that follow each other add
//! up. What delays one seldom delays the next, so the upper half-widths add as the root of the sum
//! of their squares. The lower ends simply add up: on a calm machine all parts are quick at once.

use std::fmt;
use std::time::Duration;

/// Share of the cases in which an interval is meant to hold the truth.
pub const COVERAGE: f64 = 0.9;

/// Standard deviations to either side of the middle that hold [`COVERAGE`] of a normal
/// distribution (its quantile at 0.95).
pub(in crate::converge) const DEVIATIONS: f64 = 1.645;

/// After this time the scheduler takes a processor from a thread for another one (CONFIG_HZ=250).
pub(in crate::converge) const TICK: Duration = Duration::from_millis(4);

/// What is likely, and what holds the truth in nine of ten cases: `low <= likely <= high`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    low: Duration,
    likely: Duration,
    high: Duration,
}

impl Interval {
    /// From `low` to `high`, `likely` between them; what is out of order is moved in.
    pub fn new(low: Duration, likely: Duration, high: Duration) -> Self {
        Self {
            low: low.min(likely),
            likely,
            high: high.max(likely),
        }
    }

    /// A constant: low, likely and high.
    pub(in crate::converge) const fn in_order([low, likely, high]: [Duration; 3]) -> Self {
        Self { low, likely, high }
    }

    /// Known exactly.
    pub fn exactly(time: Duration) -> Self {
        Self::new(time, time, time)
    }

    /// `likely`, give or take a factor whose logarithm has this standard deviation.
    pub fn within_factor(likely: Duration, sigma: f64) -> Self {
        let factor = (sigma.max(0.0) * DEVIATIONS).exp();
        Self::new(
            likely.div_f64(factor),
            likely,
            finite(likely.as_secs_f64() * factor),
        )
    }

    /// What a few measurements say of the next one; `None` without any.
    ///
    /// The median is likely. Of `k` draws the next lies outside their range in 2 of `k + 1` cases,
    /// so the range is stretched by half of its length to either side, and by a tenth of the median,
    /// so that one measurement alone is not taken for certain. A single draw far out of line must
    /// not decide for all that follows: upwards it counts as thrice the median and two
    /// ticks (`TICK`).
    pub fn of_samples(samples: &[Duration]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let likely = sorted[sorted.len() / 2];
        let range = most - least;
        Some(Self::new(
            least.saturating_sub(range / 2 + likely / 10),
            likely,
            (most + range / 2 + likely / 10).min(likely * 3 + TICK * 2),
        ))
    }

    /// Least in nine of ten cases.
    pub fn low(self) -> Duration {
        self.low
    }

    /// What is likely.
    pub fn likely(self) -> Duration {
        self.likely
    }

    /// Most in nine of ten cases.
    pub fn high(self) -> Duration {
        self.high
    }

    /// Whether the interval holds `time`.
    pub fn holds(self, time: Duration) -> bool {
        (self.low..=self.high).contains(&time)
    }

    /// This, and then `other`. What adds up how: see the head of this module.
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

/// A time in seconds that may be too long for a [`Duration`]: at most a year.
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
