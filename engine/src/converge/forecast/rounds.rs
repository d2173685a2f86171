//! The rounds forecast: rounds, time and lost work until the guest can be stopped, under a throttle.
//!
//! Sending what is left takes a while in which the guest writes pages anew, as many as its
//! [`DirtyCurve`] says of such a time; and so on, until what is left fits the downtime allowed or
//! becomes no less.

use std::time::Duration;

use crate::converge::estimate::interval::finite;
use crate::converge::{DirtyCurve, LostWork, Observation, ThrottleShare};

/// Length from which on a round is harvested before its end, so that some of what is written in it
/// goes only once: the pause of two harvests within a round (`migration/source/rewritten.rs`) and
/// something to save.
const HARVESTED_WITHIN: Duration = Duration::from_millis(200);

/// Most rounds that are predicted.
const HORIZON: u32 = 60;

/// Part of the pages that may be left at the stop which held-back pages may take up. The rest is for
/// what the guest writes in the shortest rounds: a larger part leaves hardly any room for that, a
/// smaller one makes rounds longer than they need to be (docs/decisions/025).
pub(in crate::converge) const HELD_BACK_PART: f64 = 0.8;

/// What is to be expected under a throttle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundsForecast {
    /// The throttle.
    pub throttle: ThrottleShare,
    /// Time until the guest can be stopped within the limit; `None`: never.
    pub ready_in: Option<Duration>,
    /// The likely downtime then.
    pub downtime: Duration,
    /// Work that the guest loses until then, in seconds at full speed.
    pub lost_work_s: f64,
}

/// Pages that are held back until the stop, and how often they are written.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::converge) struct HeldBack {
    pages: f64,
    /// Writes to each of them per second of guest time.
    rate: f64,
}

impl HeldBack {
    /// As the last harvest shows them.
    pub(in crate::converge) fn seen(seen: &Observation) -> Self {
        let pages = seen.held.0 as f64;
        if pages == 0.0 {
            return Self::default();
        }
        let both = (seen.held_written.0 as f64).min(pages);
        let time = seen.lost().guest_time(seen.between_harvests).as_secs_f64();
        // If all of them were written the rate is high, but not known.
        let missed = (1.0 - both / pages).max(0.5 / pages);
        Self {
            pages,
            rate: -missed.ln() / time.max(1e-3),
        }
    }

    /// How many of them are written within `time` by a guest that loses the part `lost` of its work.
    fn written(self, time: Duration, lost: LostWork) -> f64 {
        let time = lost.guest_time(time).as_secs_f64();
        self.pages * (1.0 - (-self.rate * time).exp())
    }
}

/// What the prediction of rounds assumes beside the curve.
#[derive(Clone, Copy, Debug)]
pub(in crate::converge) struct Assumptions {
    /// Pages that are held back until the stop.
    pub(in crate::converge) held_back: HeldBack,
    /// Standard deviations by which the guest is expected to write more than the curve says.
    pub(in crate::converge) caution: f64,
    /// Factor, from 1, by which rounds are expected to leave more than predicted.
    pub(in crate::converge) margin: f64,
}

impl Default for Assumptions {
    /// The curve as it is, with nothing held back.
    fn default() -> Self {
        Self {
            held_back: HeldBack::default(),
            caution: 0.0,
            margin: 1.0,
        }
    }
}

impl RoundsForecast {
    /// The forecast for a guest that writes as `curve` says and is throttled by `share` from now on,
    /// where a downtime of `limit` is allowed, by the upper end of its forecast.
    pub(in crate::converge) fn of(
        curve: &DirtyCurve,
        seen: &Observation,
        limit: Duration,
        share: ThrottleShare,
        assumptions: Assumptions,
    ) -> Self {
        Self::reach(curve, seen, limit, share, assumptions).unwrap_or(Self {
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
        assumptions: Assumptions,
    ) -> Option<Self> {
        let lost = seen.response.lost(throttle);
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
                    lost_work_s: time * lost.as_fraction(),
                });
            }
            // Those of the last round are held back again, as many as the limit has room for.
            let held = assumptions
                .held_back
                .pages
                .min(left)
                .min(most * HELD_BACK_PART);
            let seconds = seen.round_seconds(left - held)?;
            time += seconds;
            let round = Duration::try_from_secs_f64(seconds).ok()?;
            let next =
                curve.pages_in(round, lost)? * curve.factor(round, lost, assumptions.caution);
            let twice = assumptions.held_back.written(round, lost).min(held);
            // Only longer rounds are harvested before their end.
            let again = if round < HARVESTED_WITHIN {
                1.0
            } else {
                seen.again()
            };
            let next = (held + (next - twice).max(0.0) * again) * assumptions.margin;
            if next >= left * 0.999 && next > most {
                return None;
            }
            left = next;
        }
        None
    }
}
