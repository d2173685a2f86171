//! How much work a throttle takes from a guest.
//!
//! A throttle of share `s` lets every vCPU run for `1 - s` of the time. A guest that wants only the
//! part `d` of its processors, its *demand*, and sleeps otherwise loses nothing up to a share of
//! `1 - d`, which takes only its sleep; above that it gets `min(1, (1 - s) / d)` of its work done.
//! So there are two scales: the throttle, which actuators are given, users limit and reports show;
//! and the work lost, by which the writes become fewer and which is the price that a policy weighs
//! (docs/decisions/028).
//!
//! The demand is measured by the processor time of the vCPUs. Without it a guest is taken to want
//! all that it can get, and its loss is proportional.

use super::{LostWork, ThrottleShare};

/// The strongest throttle of a guest that sleeps, unless a user says otherwise: it still runs for a
/// fiftieth of the time.
const SLEEPERS_MOST: ThrottleShare = ThrottleShare::permille(980);

/// The strongest throttle unless a user says otherwise (docs/decisions/008).
pub(in crate::converge) const USUAL_MOST: ThrottleShare = ThrottleShare::permille(950);

/// Least demand: a guest that wants less is as good as idle, and its housekeeping decides what it
/// does under a throttle.
const DEMAND_LEAST: f64 = 0.02;

/// How the work of a guest depends on its throttle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThrottleResponse {
    /// The part of its processors that it takes without a throttle.
    demand: f64,
}

impl Default for ThrottleResponse {
    /// Of a guest that wants all that it can get.
    fn default() -> Self {
        Self { demand: 1.0 }
    }
}

impl ThrottleResponse {
    /// Of a guest that wants the part `demand` of its processors; clamped to 0.02 to 1.
    pub fn of_demand(demand: f64) -> Self {
        Self {
            demand: demand.clamp(DEMAND_LEAST, 1.0),
        }
    }

    /// The part of its processors that the guest wants, 0.02 to 1.
    pub fn demand(self) -> f64 {
        self.demand
    }

    /// The part of its work that the guest loses to `throttle`.
    pub fn lost(self, throttle: ThrottleShare) -> LostWork {
        let done = (1.0 - throttle.as_fraction()) / self.demand;
        // A rounding error is no loss.
        LostWork::part(1.0 - done - 1e-9)
    }

    /// The strongest throttle that may be used: `most` if a user has set it, otherwise 95 %, which
    /// leaves the guest a twentieth of its work. One that sleeps keeps that much under a stronger
    /// throttle as well, up to 98 %.
    pub fn strongest(self, most: Option<ThrottleShare>) -> ThrottleShare {
        most.unwrap_or_else(|| {
            self.throttle(LostWork::part(USUAL_MOST.as_fraction()))
                .clamp(USUAL_MOST, SLEEPERS_MOST)
        })
    }

    /// The weakest throttle by which the guest loses the part `lost` of its work. None for no loss,
    /// although a guest that sleeps would not notice one.
    pub fn throttle(self, lost: LostWork) -> ThrottleShare {
        if lost == LostWork::NONE {
            return ThrottleShare::NONE;
        }
        // Rounded up, but not for a rounding error.
        ThrottleShare::fraction(1.0 - (1.0 - lost.as_fraction()) * self.demand - 1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(lost: LostWork, part: f64) -> bool {
        (lost.as_fraction() - part).abs() < 1e-6
    }

    #[test]
    fn a_guest_that_wants_all_loses_in_proportion() {
        let response = ThrottleResponse::default();
        for permille in [0, 1, 333, 500, 949, 990] {
            let share = ThrottleShare::permille(permille);
            let lost = response.lost(share);
            assert!(is(lost, share.as_fraction()), "{lost:?}");
            assert_eq!(response.throttle(lost), share);
            assert_eq!(
                response.throttle(LostWork::part(share.as_fraction())),
                share
            );
        }
    }

    #[test]
    fn a_guest_that_sleeps_loses_nothing_at_first_and_then_all_at_once() {
        let response = ThrottleResponse::of_demand(0.2);
        let lost = |permille| response.lost(ThrottleShare::permille(permille));
        assert_eq!(lost(800), LostWork::NONE);
        assert!(is(lost(900), 0.5) && is(lost(950), 0.75));
        let throttle = |lost| response.throttle(LostWork::part(lost));
        assert_eq!(throttle(0.5), ThrottleShare::permille(900));
        assert_eq!(throttle(0.0), ThrottleShare::NONE);
        assert_eq!(throttle(7.0), ThrottleShare::MOST);
        for most in [
            ThrottleShare::permille(500),
            USUAL_MOST,
            ThrottleShare::MOST,
        ] {
            assert_eq!(response.strongest(Some(most)), most);
        }
        assert_eq!(response.strongest(None), SLEEPERS_MOST);
        assert_eq!(ThrottleResponse::default().strongest(None), USUAL_MOST);
        assert_eq!(ThrottleResponse::of_demand(0.0).demand(), DEMAND_LEAST);
        assert_eq!(
            ThrottleResponse::of_demand(f64::INFINITY),
            ThrottleResponse::default()
        );
    }
}
