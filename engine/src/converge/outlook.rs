//! What comes next, if the guest is throttled by some share: rounds, time, harm.
//!
//! Sending what is left takes a while, in which the guest writes pages anew, as many as the
//! [`DirtyCurve`] says of such a time; and so on, until what is left fits the blackout allowed or
//! becomes no less. Pure.

use std::time::Duration;

use super::span::finite;
use super::{DirtyCurve, Observation, Share};

/// Rounds that are predicted at most.
const HORIZON: u32 = 60;

/// What to expect under a throttle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// The share of the throttle it is about.
    pub throttle: Share,
    /// Time until the guest could be stopped within the limit; `None`: never.
    pub ready_in: Option<Duration>,
    /// The blackout that is likely then.
    pub blackout: Duration,
    /// Seconds of full speed that the guest would lose until then.
    pub harm_s: f64,
}

impl Outlook {
    /// The outlook for a guest that writes as `curve` says and is throttled by `share` from `seen`
    /// on, if a blackout of `limit` is allowed, by the upper end of its forecast.
    ///
    /// `caution`: standard deviations that it is expected to write more than the curve says.
    pub fn of(
        curve: &DirtyCurve,
        seen: &Observation,
        limit: Duration,
        share: Share,
        caution: f64,
    ) -> Self {
        Self::reach(curve, seen, limit, share, caution).unwrap_or(Self {
            throttle: share,
            ready_in: None,
            blackout: Duration::ZERO,
            harm_s: f64::INFINITY,
        })
    }

    fn reach(
        curve: &DirtyCurve,
        seen: &Observation,
        limit: Duration,
        share: Share,
        caution: f64,
    ) -> Option<Self> {
        let most = seen.most_left(limit)?;
        let in_flight = seen.in_flight.0 as f64 / seen.bytes_per_page.max(1.0);
        let (mut left, mut time) = (seen.left.0 as f64 + in_flight, 0.0);
        for _ in 0..HORIZON {
            let round = seen.round_seconds(left)?;
            if left <= most {
                return Some(Self {
                    throttle: share,
                    ready_in: Some(Duration::try_from_secs_f64(time).ok()?),
                    blackout: seen.fixed.total().likely() + finite(round),
                    harm_s: time * share.as_fraction(),
                });
            }
            time += round;
            let round = Duration::try_from_secs_f64(round).ok()?;
            let next = curve.pages_in(round, share)? * curve.factor(round, share, caution);
            if next >= left * 0.999 && next > most {
                return None;
            }
            left = next;
        }
        None
    }
}
