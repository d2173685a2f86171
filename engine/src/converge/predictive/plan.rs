//! The choice of the throttle: the one that costs the guest the least work, of those that get there.
//!
//! The cost is the work that the throttle takes over the time until the guest can be stopped, and
//! the downtime. It is not the throttle's own share: a guest that sleeps loses nothing to a throttle
//! that only takes its sleep ([`ThrottleResponse`](crate::converge::ThrottleResponse)).
//!
//! **Hard or soft.** With one round of `L` seconds to go, a throttle that takes the part `u` of the
//! work leaves `D((1 - u) * L)` to the downtime, and costs `u * L` and that downtime. Where the
//! dirty curve rises faster than the link carries, each second that the guest runs costs more than
//! a second of downtime, so the strongest throttle is the best; where it is flatter (a hot set that
//! is all written at once), running is free, and a soft throttle that fits is better. Rounds before
//! the last one multiply that, so all shares are compared. The least possible cost is the time of
//! one round of what rounds without a throttle come to rest at, which is the downtime of a policy
//! that only stops the guest (docs/decisions/028).
//!
//! **How strong at most.** The limit of the throttle is one of time. A guest that sleeps for more
//! than the limit leaves is not slowed by it at all. So if no share up to 95 % gets there, one up to
//! 98 % may be taken that leaves the guest as large a part of its work. A lower limit that a user
//! has set is kept.

use std::time::Duration;

use crate::converge::forecast::rounds::{Assumptions, HeldBack};
use crate::converge::throttle::response::USUAL_MOST;
use crate::converge::{DirtyCurve, LostWork, Observation, RoundsForecast, ThrottleShare};

/// Throttles that are compared, as equal steps of the work that the strongest one takes.
const SHARES: u32 = 16;

/// Cost of a second that the migration takes, relative to a second of lost work: so small that time
/// only decides between equals.
const TIME_WEIGHT: f64 = 0.02;

/// Standard deviations by which the guest is expected to write more than predicted under a weaker
/// throttle than the one in force.
const CAUTION: f64 = 1.0;

/// What is known when the throttle is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) curve: &'a DirtyCurve,
    pub(super) seen: &'a Observation,
    /// The downtime allowed.
    pub(super) limit: Duration,
    pub(super) held_back: HeldBack,
    /// Factor by which rounds without a throttle are expected to leave more than predicted.
    pub(super) margin: f64,
    /// The throttle in force.
    pub(super) throttle: ThrottleShare,
    /// The strongest throttle that a user allows, if one has said so.
    pub(super) throttle_most: Option<ThrottleShare>,
}

impl Plan<'_> {
    /// The rounds to come if the guest is throttled by `share` from now on.
    pub(super) fn rounds_forecast(&self, share: ThrottleShare) -> RoundsForecast {
        // A throttle that is released too early has been in vain.
        let caution = if share < self.throttle { CAUTION } else { 0.0 };
        // Under a throttle little is written beside what is held back, and that is known.
        let margin = if share == ThrottleShare::NONE {
            self.margin
        } else {
            1.0
        };
        let assumptions = Assumptions {
            held_back: self.held_back,
            caution,
            margin,
        };
        RoundsForecast::of(self.curve, self.seen, self.limit, share, assumptions)
    }

    /// The throttle that gets there within `time` at the least cost, if one does.
    pub(super) fn best(&self, time: Duration) -> Option<RoundsForecast> {
        let usual = self.throttle_most.unwrap_or(USUAL_MOST);
        let strongest = self.strongest();
        match self.best_up_to(usual, time) {
            None if strongest > usual => self.best_up_to(strongest, time),
            within => within,
        }
    }

    /// The strongest throttle that may be taken.
    pub(super) fn strongest(&self) -> ThrottleShare {
        self.seen.response.strongest(self.throttle_most)
    }

    fn best_up_to(&self, most: ThrottleShare, time: Duration) -> Option<RoundsForecast> {
        let response = self.seen.response;
        let most_lost = response.lost(most).as_fraction();
        (0..=SHARES)
            .map(|step| most_lost * f64::from(step) / f64::from(SHARES))
            .map(|lost| response.throttle(LostWork::part(lost)).min(most))
            .map(|share| self.rounds_forecast(share))
            .filter(|rounds_forecast| rounds_forecast.ready_in.is_some_and(|ready| ready <= time))
            .min_by(|a, b| cost(a).total_cmp(&cost(b)))
    }
}

/// Seconds of lost work, the downtime included.
fn cost(rounds_forecast: &RoundsForecast) -> f64 {
    let ready = rounds_forecast
        .ready_in
        .map_or(f64::INFINITY, |time| time.as_secs_f64());
    rounds_forecast.lost_work_s + rounds_forecast.downtime.as_secs_f64() + ready * TIME_WEIGHT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::converge::ThrottleResponse;
    use crate::converge::estimate::curve::tests::steady;
    use crate::converge::forecast::downtime::tests::seen;

    /// A guest that writes `per_s` new pages a second, has written 30,000 of them, and wants the
    /// part `demand` of its processors: what is best for it, and the strongest there is.
    fn best(per_s: u64, demand: f64, most: Option<u16>) -> (Option<ThrottleShare>, ThrottleShare) {
        let curve = steady(per_s);
        let seen = Observation {
            response: ThrottleResponse::of_demand(demand),
            ..seen(10_000, 5, 30_000)
        };
        let plan = Plan {
            curve: &curve,
            seen: &seen,
            limit: Duration::from_millis(50),
            held_back: HeldBack::default(),
            margin: 1.0,
            throttle: ThrottleShare::NONE,
            throttle_most: most.map(ThrottleShare::permille),
        };
        let best = plan.best(Duration::from_secs(100));
        (
            best.map(|rounds_forecast| rounds_forecast.throttle),
            plan.strongest(),
        )
    }

    #[test]
    fn harm_is_work_and_not_time() {
        // 24,414 pages a second are what the link carries.
        let (all, _) = best(48_000, 1.0, None);
        assert_eq!(all, Some(ThrottleShare::permille(950)));
        // One that wants half of its processors keeps half of the rest of the way there.
        let (half, _) = best(48_000, 0.5, None);
        assert_eq!(half, Some(ThrottleShare::permille(950)));
        let (calm, _) = best(12_000, 0.5, None);
        assert_eq!(calm, Some(ThrottleShare::NONE));
    }

    #[test]
    fn a_sleeper_may_be_throttled_beyond_the_limit_and_only_if_it_must() {
        // 95 % would take nothing of its work.
        let (share, strongest) = best(40_000, 0.04, None);
        assert_eq!(strongest, ThrottleShare::permille(980));
        let share = share.expect("half its work is little enough");
        assert!(share > ThrottleShare::permille(950), "{share:?}");
        // With 95 % it loses three quarters: enough.
        let (share, _) = best(48_000, 0.2, None);
        assert!(
            share.is_some_and(|share| share <= ThrottleShare::permille(950)),
            "{share:?}"
        );
        // Who allows less is obeyed.
        let (share, strongest) = best(48_000, 0.5, Some(200));
        assert_eq!((share, strongest), (None, ThrottleShare::permille(200)));
    }
}
