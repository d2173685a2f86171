//! Which throttle does the least harm, of those that get there.
//!
//! Harm is what the guest does not get done: the share of its work that the throttle takes, over
//! the time it takes to get there, and the downtime. It is not the throttle's own share: a guest
//! that sleeps loses nothing to one that only takes its sleep ([`ThrottleResponse`](crate::converge::ThrottleResponse)).
//!
//! **Hard or soft.** With one round to go, of `L` seconds, a share `u` leaves `D((1 - u) * L)` to a
//! downtime, and the guest loses `u * L` and that downtime. Where the curve of its writes rises
//! by more than what the link carries, each second that it runs costs more than a second of
//! downtime, so the strongest share is the best; where it is flatter (a hot set that is all
//! written at once), running on is free, and a soft one that fits is better. Rounds before it
//! multiply that: all shares are tried, since the curve decides. The least possible is the
//! time of one round of what free rounds come to rest at: what a policy that only stops the
//! guest would cost it as a downtime (docs/decisions/028).
//!
//! **How much at most.** A limit of the throttle is one of the guest's time. What sleeps for more
//! than the limit lets run is not slowed by it at all; so if no share up to 95 % gets there, one
//! beyond it may be taken, up to 98 %, that takes no more of the guest's *work* than the limit
//! says. A user's limit below that is kept. Pure.

use std::time::Duration;

use crate::converge::forecast::rounds::{Held, Manner};
use crate::converge::throttle::response::USUAL_MOST;
use crate::converge::{DirtyCurve, Observation, RoundsForecast, ThrottleShare};

/// Shares of work that are compared, as steps of the most allowed.
const SHARES: u32 = 16;

/// Harm of a second that the migration takes, against a second that the guest does not run: small,
/// so that time is only the judge between equals.
const TIME_WEIGHT: f64 = 0.02;

/// Standard deviations that the guest is expected to write more when less throttled than it is.
const CAUTION: f64 = 1.0;

/// What is known when a share is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) curve: &'a DirtyCurve,
    pub(super) seen: &'a Observation,
    /// The downtime allowed.
    pub(super) limit: Duration,
    pub(super) held: Held,
    /// How much more than predicted rounds without a throttle have left.
    pub(super) doubt: f64,
    /// The throttle in force.
    pub(super) throttle: ThrottleShare,
    /// The largest share of its time that a user lets the guest be throttled by.
    pub(super) throttle_most: Option<ThrottleShare>,
}

impl Plan<'_> {
    /// What to expect if the guest is throttled by `share` from now on.
    pub(super) fn rounds_forecast(&self, share: ThrottleShare) -> RoundsForecast {
        // To let go of a throttle takes more than a hope: a guest that was let go too early costs
        // the rounds that it was throttled for.
        let caution = if share < self.throttle { CAUTION } else { 0.0 };
        // Under a throttle little is written beside what is held back, and that is no guess.
        let doubt = if share == ThrottleShare::NONE {
            self.doubt
        } else {
            1.0
        };
        let manner = Manner {
            held: self.held,
            caution,
            doubt,
        };
        RoundsForecast::of(self.curve, self.seen, self.limit, share, manner)
    }

    /// The share with the least harm that gets there in `time`, if one does.
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
            .map(|lost| self.rounds_forecast(response.throttle(lost).min(most)))
            .filter(|rounds_forecast| rounds_forecast.ready_in.is_some_and(|ready| ready <= time))
            .min_by(|a, b| cost(a).total_cmp(&cost(b)))
    }
}

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
            held: Held::default(),
            doubt: 1.0,
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
