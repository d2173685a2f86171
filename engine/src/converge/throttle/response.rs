//! What a throttle costs a guest of its work.
//!
//! A throttle of share `s` lets every vCPU run for `1 - s` of the time. A guest that wants only a
//! part `d` of its processors and sleeps otherwise (its *demand*) loses nothing up to a share of
//! `1 - d`, since only its sleep is taken, and beyond that all at once: it gets
//! `min(1, (1 - s) / d)` of its work done. So there are two scales: the throttle, which an
//! actuator is given, users limit and reports name; and what it takes of the guest's work, by
//! which the guest's writes fall and which is the harm done to it.
//!
//! The demand comes from the processor time of the vCPUs, where somebody tells it; without, all
//! guests are taken to want all that they can get, which is the proportional loss. Pure.

use super::ThrottleShare;

/// The strongest throttle for a guest that sleeps: it still runs for a fiftieth of the time.
const SLEEPERS_MOST: ThrottleShare = ThrottleShare::permille(980);

/// The strongest throttle that is taken unless a user says otherwise, if less does not do.
pub(in crate::converge) const USUAL_MOST: ThrottleShare = ThrottleShare::permille(950);

/// Least demand that is believed: a guest that wants less is as good as idle, and what it does
/// under a throttle is decided by its housekeeping.
const DEMAND_LEAST: f64 = 0.02;

/// How a guest's work depends on its throttle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThrottleResponse {
    /// The part of its processors that it takes if it is let.
    demand: f64,
}

impl Default for ThrottleResponse {
    /// It wants all that it can get.
    fn default() -> Self {
        Self { demand: 1.0 }
    }
}

impl ThrottleResponse {
    /// Of a guest that wants the part `demand` of its processors, 0 to 1; what is outside of that
    /// or below what is believed counts as the nearest that is.
    pub fn of_demand(demand: f64) -> Self {
        Self {
            demand: demand.clamp(DEMAND_LEAST, 1.0),
        }
    }

    /// The part of its processors that the guest wants, above 0, up to 1.
    pub fn demand(self) -> f64 {
        self.demand
    }

    /// The share of its work that a throttle of `throttle` takes from the guest.
    pub fn lost(self, throttle: ThrottleShare) -> ThrottleShare {
        let done = (1.0 - throttle.as_fraction()) / self.demand;
        // Rounded down by less than a permille, so that there and back is where it began.
        ThrottleShare::fraction(1.0 - done - 1e-9)
    }

    /// The strongest throttle, if a user allows `most`, which is kept to the letter. `None`: 95 %,
    /// by which the guest keeps a twentieth of its work; one that sleeps keeps that under a
    /// stronger throttle too, up to 98 %.
    pub fn strongest(self, most: Option<ThrottleShare>) -> ThrottleShare {
        most.unwrap_or_else(|| {
            self.throttle(USUAL_MOST.as_fraction())
                .clamp(USUAL_MOST, SLEEPERS_MOST)
        })
    }

    /// The smallest throttle that takes the share `lost`, 0 to 1, of its work from the guest.
    /// Nothing takes no throttle, although a guest that sleeps would not notice one.
    pub fn throttle(self, lost: f64) -> ThrottleShare {
        if lost <= 0.0 {
            return ThrottleShare::NONE;
        }
        ThrottleShare::fraction(1.0 - (1.0 - lost.min(1.0)) * self.demand - 1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_wants_all_loses_in_proportion() {
        let response = ThrottleResponse::default();
        for permille in [0, 1, 333, 500, 949, 990] {
            let share = ThrottleShare::permille(permille);
            assert_eq!(response.lost(share), share);
            assert_eq!(response.throttle(share.as_fraction()), share);
        }
    }

    #[test]
    fn a_guest_that_sleeps_loses_nothing_at_first_and_then_all_at_once() {
        let response = ThrottleResponse::of_demand(0.2);
        assert_eq!(
            response.lost(ThrottleShare::permille(800)),
            ThrottleShare::NONE
        );
        assert_eq!(
            response.lost(ThrottleShare::permille(900)),
            ThrottleShare::permille(500)
        );
        assert_eq!(
            response.lost(ThrottleShare::permille(950)),
            ThrottleShare::permille(750)
        );
        assert_eq!(response.throttle(0.5), ThrottleShare::permille(900));
        assert_eq!(response.throttle(0.0), ThrottleShare::NONE);
        assert_eq!(response.throttle(7.0), ThrottleShare::MOST);
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
