//! The ramp of the downtime allowed, from the least to the most.
//!
//! It takes a step at the end of a round that neither fits nor makes progress, at most one a second;
//! when the policy would give up; and by time, so that the most is allowed once three quarters of
//! the time are over. Steps are equal factors: from 50 ms to 500 ms each is about 1.33.

use std::time::Duration;

use crate::converge::policy::PROGRESS;
use crate::converge::{Limits, Observation};
use crate::units::Instant;

/// Steps from the least to the most: fine enough that no step gives away much.
const STEPS: u32 = 8;

/// Least time between two steps taken by rounds.
const STEP_TIME: Duration = Duration::from_secs(1);

/// Part of the deadline after which the most is allowed.
const BY_THEN: f64 = 0.75;

/// How far the downtime allowed has grown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ramp {
    /// Steps taken by rounds, or instead of giving up.
    steps: u32,
    stepped_at: Option<Instant>,
    left_before: Option<u64>,
}

impl Ramp {
    /// The downtime allowed `elapsed` after the beginning.
    pub(super) fn limit(&self, limits: &Limits, elapsed: Duration) -> Duration {
        let downtime = limits.downtime;
        let by_time = limits.deadline.map_or(0.0, |deadline| {
            elapsed.as_secs_f64() / (deadline.as_secs_f64() * BY_THEN).max(1e-9)
        });
        let by_time = (by_time * f64::from(STEPS)).min(f64::from(STEPS)) as u32;
        let part = f64::from(self.steps.max(by_time).min(STEPS)) / f64::from(STEPS);
        let (least, most) = (downtime.least(), downtime.most());
        if least.is_zero() {
            return most.mul_f64(part);
        }
        let factor = most.as_secs_f64() / least.as_secs_f64();
        least.mul_f64(factor.powf(part)).min(most)
    }

    /// A round has ended.
    pub(super) fn round_ended(&mut self, limits: &Limits, seen: &Observation) {
        let left = seen.bytes_left().0;
        let before = self.left_before.replace(left);
        let fits = seen.fits(self.limit(limits, seen.elapsed));
        let shrinks = before.is_none_or(|before| (left as f64) < before as f64 * PROGRESS);
        let soon = self
            .stepped_at
            .is_some_and(|at| seen.now.since(at) < STEP_TIME);
        if !fits && !shrinks && !soon {
            self.step(limits, seen);
        }
    }

    /// Takes a step; false if the most is allowed already.
    pub(super) fn step(&mut self, limits: &Limits, seen: &Observation) -> bool {
        if self.limit(limits, seen.elapsed) >= limits.downtime.most() {
            return false;
        }
        self.steps += 1;
        self.stepped_at = Some(seen.now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::converge::Downtime;
    use crate::converge::forecast::downtime::tests::seen;

    fn limits(deadline_s: u64) -> Limits {
        let ms = Duration::from_millis;
        Limits {
            downtime: Downtime::growing(ms(50), ms(500)).unwrap(),
            deadline: Some(Duration::from_secs(deadline_s)),
            ..Limits::default()
        }
    }

    #[test]
    fn rounds_that_get_nowhere_allow_more_step_by_step_up_to_the_most() {
        let (mut ramp, limits) = (Ramp::default(), limits(100_000));
        let mut allowed = vec![ramp.limit(&limits, Duration::ZERO)];
        for round in 1..40 {
            let seen = seen(u64::from(round) * 500, round, 100_000);
            ramp.round_ended(&limits, &seen);
            let limit = ramp.limit(&limits, seen.elapsed);
            if allowed.last() != Some(&limit) {
                allowed.push(limit);
            }
        }
        assert_eq!(allowed.len(), STEPS as usize + 1, "{allowed:?}");
        assert!(allowed.is_sorted(), "{allowed:?}");
        assert_eq!(allowed[0], Duration::from_millis(50));
        assert_eq!(allowed[8], Duration::from_millis(500));
        let first = allowed[1].as_secs_f64() / 0.05;
        assert!((1.3..1.4).contains(&first), "{allowed:?}");
    }

    #[test]
    fn a_guest_that_converges_is_not_given_more() {
        let (mut ramp, limits) = (Ramp::default(), limits(100_000));
        let mut left = 1_000_000.0;
        for round in 1..20 {
            left *= 0.6;
            ramp.round_ended(&limits, &seen(u64::from(round) * 2000, round, left as u64));
        }
        assert_eq!(
            ramp.limit(&limits, Duration::ZERO),
            Duration::from_millis(50)
        );
    }

    #[test]
    fn time_alone_allows_more_as_well() {
        let (ramp, limits) = (Ramp::default(), limits(100));
        let at = |seconds| ramp.limit(&limits, Duration::from_secs(seconds));
        assert_eq!(at(9), Duration::from_millis(50));
        assert!(at(10) > at(9));
        assert!(at(74) < at(75));
        assert_eq!(at(75), Duration::from_millis(500));
        assert_eq!(at(1000), Duration::from_millis(500));
    }
}
