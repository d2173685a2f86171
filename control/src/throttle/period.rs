//! The rhythm of a throttle: how long one stop and one run last together.

use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;

/// Shortest stop and shortest run that a period is made of. A stop and the way back cost a vCPU
/// about 30 us of its time (docs/decisions/030), a tenth of this.
const PART_MIN: Duration = Duration::from_micros(280);

/// Longest period: a guest notices stops of ten milliseconds.
const PERIOD_MAX: Duration = Duration::from_millis(10);

/// The shortest period that costs little for vCPUs that are throttled to `shares`: 0.56 to 10 ms.
///
/// The guest answers the sooner the shorter its stops are, but every stop costs it processor time,
/// which must be small against what it is stopped for and against what it runs. So 0.56 ms for a
/// share of a half, 2.8 ms for a tenth and nine tenths, 5.6 ms for 95 %. Of several shares the one
/// that needs the longest period decides.
pub(super) fn period_of(shares: &[ThrottleShare]) -> Duration {
    let throttled = shares.iter().filter(|share| **share != ThrottleShare::NONE);
    let period = |share: &ThrottleShare| {
        let less = share.as_permille().min(1000 - share.as_permille());
        (PART_MIN * 1000 / u32::from(less)).min(PERIOD_MAX)
    };
    throttled.map(period).max().unwrap_or(2 * PART_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_as_short_as_pays() {
        let share = ThrottleShare::permille;
        let period = |permille| period_of(&[share(permille)]);
        assert_eq!(period(500), Duration::from_micros(560));
        assert_eq!(period(100), period(900));
        assert_eq!(period(950), Duration::from_micros(5600));
        assert_eq!(period(990), Duration::from_millis(10));
        assert_eq!(period(1), Duration::from_millis(10));
        let each = [share(500), share(900), ThrottleShare::NONE];
        assert_eq!(period_of(&each), period(900));
    }
}
