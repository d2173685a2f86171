//! What comes next, if the guest is throttled by some share: rounds, time, harm.
//!
//! Sending what is left takes a while, in which the guest writes pages anew, as many as the
//! [`DirtyCurve`] says of such a time; and so on, until what is left fits the downtime allowed or
//! becomes no less. Pure.

use std::time::Duration;

use crate::converge::estimate::interval::finite;
use crate::converge::{DirtyCurve, Observation, ThrottleShare};

/// Length of a round from which on some of what is written in it goes only once.
const HARVESTED_WITHIN: Duration = Duration::from_millis(200);

/// Rounds that are predicted at most.
const HORIZON: u32 = 60;

/// Share of what may be left at the stop that held-back pages may take up. The rest is for what the
/// guest writes in the shortest rounds; with a larger share there is hardly room for that, with a
/// smaller one rounds are longer than they need to be (docs/decisions/025).
pub(in crate::converge) const HELD_SHARE: f64 = 0.8;

/// What to expect under a throttle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundsForecast {
    /// The share of the throttle it is about.
    pub throttle: ThrottleShare,
    /// Time until the guest could be stopped within the limit; `None`: never.
    pub ready_in: Option<Duration>,
    /// The downtime that is likely then.
    pub downtime: Duration,
    /// Seconds of full speed that the guest would lose until then.
    pub lost_work_s: f64,
}

/// Pages that are held back, and how they are written.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::converge) struct Held {
    pages: f64,
    /// Rate at which each of them is written, per second of the guest's time.
    rate: f64,
}

impl Held {
    /// What the harvest shows.
    pub(in crate::converge) fn seen(seen: &Observation) -> Self {
        let pages = seen.held.0 as f64;
        if pages == 0.0 {
            return Self::default();
        }
        let both = (seen.held_written.0 as f64).min(pages);
        let time = seen.lost().guest_time(seen.interval).as_secs_f64();
        // All of them written shows that the rate is high, and not how high.
        let missed = (1.0 - both / pages).max(0.5 / pages);
        Self {
            pages,
            rate: -missed.ln() / time.max(1e-3),
        }
    }

    /// How many of them are written within `time` by a guest that loses `share` of its work.
    fn written(self, time: Duration, share: ThrottleShare) -> f64 {
        let time = share.guest_time(time).as_secs_f64();
        self.pages * (1.0 - (-self.rate * time).exp())
    }
}

/// How the rounds are predicted, beside the curve.
#[derive(Clone, Copy, Debug)]
pub(in crate::converge) struct Manner {
    /// Pages that are held back.
    pub(in crate::converge) held: Held,
    /// Standard deviations that the guest is expected to write more than the curve says.
    pub(in crate::converge) caution: f64,
    /// How much more the rounds are taken to leave.
    pub(in crate::converge) doubt: f64,
}

impl Default for Manner {
    /// By the curve, with nothing held back.
    fn default() -> Self {
        Self {
            held: Held::default(),
            caution: 0.0,
            doubt: 1.0,
        }
    }
}

impl RoundsForecast {
    /// The outlook for a guest that writes as `curve` says and is throttled by `share` from `seen`
    /// on, if a downtime of `limit` is allowed, by the upper end of its forecast.
    pub(in crate::converge) fn of(
        curve: &DirtyCurve,
        seen: &Observation,
        limit: Duration,
        share: ThrottleShare,
        manner: Manner,
    ) -> Self {
        Self::reach(curve, seen, limit, share, manner).unwrap_or(Self {
            throttle: share,
            ready_in: None,
            downtime: Duration::ZERO,
            lost_work_s: f64::INFINITY,
        })
    }

    fn reach(
        curve: &DirtyCurve,
        seen: &Observation,
        limit: Duration,
        throttle: ThrottleShare,
        manner: Manner,
    ) -> Option<Self> {
        let share = seen.response.lost(throttle);
        let most = seen.most_left(limit)?;
        let in_flight = seen.in_flight.0 as f64 / seen.bytes_per_page.max(1.0);
        let (mut left, mut time) = (seen.left.0 as f64 + in_flight, 0.0);
        for _ in 0..HORIZON {
            if left <= most {
                let sending = seen.round_seconds(left)?;
                return Some(Self {
                    throttle,
                    ready_in: Some(Duration::try_from_secs_f64(time).ok()?),
                    downtime: seen.fixed.total().likely() + finite(sending),
                    lost_work_s: time * share.as_fraction(),
                });
            }
            // As many are held back as the policy lets wait: those of the last round, which the
            // limit bounds anew when the link changes.
            let held = manner.held.pages.min(left).min(most * HELD_SHARE);
            let seconds = seen.round_seconds(left - held)?;
            time += seconds;
            let round = Duration::try_from_secs_f64(seconds).ok()?;
            let next = curve.pages_in(round, share)? * curve.factor(round, share, manner.caution);
            let twice = manner.held.written(round, share).min(held);
            // Only longer rounds are harvested within.
            let again = if round < HARVESTED_WITHIN {
                1.0
            } else {
                seen.again()
            };
            let next = (held + (next - twice).max(0.0) * again) * manner.doubt;
            if next >= left * 0.999 && next > most {
                return None;
            }
            left = next;
        }
        None
    }
}
