//! The status of convergence: where a migration stands, and where it is heading.
//!
//! Computed at the end of a round from what every policy sees, and by no policy; the text is made
//! when it is read.

use std::fmt;
use std::time::Duration;

use crate::converge::forecast::rounds::Assumptions;
use crate::converge::{
    DirtyCurve, DowntimeForecast, Interval, Observation, RoundsForecast, ThrottleShare,
};
use crate::units::{ByteCount, Rate};

/// Throttles that are tried beside the one in force, in permille.
const SHARES: [u16; 6] = [200, 400, 600, 800, 900, 950];

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvergenceStatus {
    /// Bytes left to send.
    pub left: ByteCount,
    /// Rate at which distinct pages are written, over the last round.
    pub dirty: Option<Rate>,
    /// Rate at which the target places data.
    pub link: Option<Rate>,
    /// Forecast of the downtime if the guest were stopped now.
    pub downtime: Option<Interval>,
    /// The downtime allowed.
    pub limit: Duration,
    /// The throttle in force.
    pub throttle: ThrottleShare,
    /// The rounds to come if nothing is changed; `None`: it does not get there.
    pub as_it_is: Option<RoundsForecast>,
    /// The rounds to come under the throttle that gets there with the least lost work; `None`: none
    /// does.
    pub throttled: Option<RoundsForecast>,
    /// Part of the pages of the last round that went as deltas; `None` before a later round.
    pub delta_share: Option<f64>,
}

impl ConvergenceStatus {
    /// The status of a guest that writes as `curve` says, where a downtime of `limit` is allowed.
    pub fn of(curve: &DirtyCurve, seen: &Observation, limit: Duration) -> Self {
        let rounds_forecast = |share| {
            let rounds_forecast =
                RoundsForecast::of(curve, seen, limit, share, Assumptions::default());
            rounds_forecast.ready_in.map(|_| rounds_forecast)
        };
        let shares = SHARES.into_iter().map(ThrottleShare::permille);
        Self {
            left: seen.bytes_left(),
            dirty: seen.dirty,
            link: seen.link,
            downtime: DowntimeForecast::of(seen).map(|parts| parts.total()),
            limit,
            throttle: seen.throttled,
            as_it_is: rounds_forecast(seen.throttled),
            throttled: shares
                .filter_map(rounds_forecast)
                .min_by(|a, b| a.lost_work_s.total_cmp(&b.lost_work_s)),
            delta_share: None,
        }
    }

    /// Whether the guest may be stopped now.
    fn fits(&self) -> bool {
        self.downtime
            .is_some_and(|interval| interval.high() <= self.limit)
    }
}

impl fmt::Display for ConvergenceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit.as_millis();
        let Some(downtime) = self.downtime else {
            return write!(f, "{} to send, no rate of the link is known yet", self.left);
        };
        write!(
            f,
            "{} left, a downtime of {downtime} where {limit} ms are allowed; ",
            self.left
        )?;
        let (Some(dirty), Some(link)) = (self.dirty, self.link) else {
            return f.write_str("what the guest dirties is not known yet");
        };
        write!(
            f,
            "the guest dirties {dirty} of distinct pages, the link carries {link}"
        )?;
        if let Some(share) = self.delta_share.filter(|share| *share >= 0.01) {
            write!(f, ", {:.0} % of them as deltas", share * 100.0)?;
        }
        if self.throttle != ThrottleShare::NONE {
            write!(f, ", throttled to {}", self.throttle)?;
        }
        if self.fits() {
            return f.write_str("; it could be stopped now");
        }
        let would = |rounds_forecast: &RoundsForecast| {
            let ready = rounds_forecast.ready_in.unwrap_or_default().as_secs_f64();
            let digits = usize::from(ready < 10.0);
            let ms = rounds_forecast.downtime.as_secs_f64() * 1e3;
            format!("finish in {ready:.digits$} s with a downtime of {ms:.0} ms")
        };
        match (&self.as_it_is, &self.throttled) {
            (Some(rounds_forecast), _) => {
                write!(f, "; as it is it would {}", would(rounds_forecast))
            }
            (None, Some(rounds_forecast)) => {
                write!(
                    f,
                    "; throttling to {} would {}",
                    rounds_forecast.throttle,
                    would(rounds_forecast)
                )
            }
            (None, None) => {
                f.write_str("; no throttle would finish it within the downtime allowed")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::converge::estimate::curve::tests::steady;
    use crate::converge::forecast::downtime::tests::seen;

    const LIMIT: Duration = Duration::from_millis(50);

    /// Writes `per_s` new pages a second, and so does the guest that is seen.
    fn convergence(per_s: u64, left: u64) -> ConvergenceStatus {
        let curve = steady(per_s);
        let seen = Observation {
            dirty: Some(Rate(per_s * 4096)),
            ..seen(10_000, 5, left)
        };
        ConvergenceStatus::of(&curve, &seen, LIMIT)
    }

    #[test]
    fn a_guest_that_gets_there_by_itself_is_said_to() {
        let words = convergence(12_000, 20_000).to_string();
        assert!(
            words.starts_with("78.1 MiB left, a downtime of 829 ms ("),
            "{words}"
        );
        assert!(
            words.contains("the guest dirties 46.9 MiB/s of distinct pages"),
            "{words}"
        );
        assert!(words.contains("the link carries 95.4 MiB/s"), "{words}");
        assert!(words.contains("; as it is it would finish in "), "{words}");
    }

    #[test]
    fn a_guest_that_does_not_is_told_what_throttle_would_do() {
        let convergence = convergence(75_000, 200_000);
        let words = convergence.to_string();
        let throttled = convergence.throttled.unwrap();
        assert!(
            throttled.throttle >= ThrottleShare::permille(800),
            "{words}"
        );
        let would = format!("; throttling to {} would finish in ", throttled.throttle);
        assert!(words.contains(&would), "{words}");
        assert!(convergence.as_it_is.is_none());
    }

    #[test]
    fn what_fits_could_be_stopped_now() {
        let words = convergence(100, 200).to_string();
        assert!(words.ends_with("; it could be stopped now"), "{words}");
    }

    #[test]
    fn what_nothing_helps_and_what_is_not_known_are_said() {
        let hopeless = ConvergenceStatus {
            as_it_is: None,
            throttled: None,
            throttle: ThrottleShare::permille(950),
            delta_share: Some(0.5),
            ..convergence(75_000, 200_000)
        };
        let words = hopeless.to_string();
        assert!(
            words.contains(", 50 % of them as deltas, throttled to 95 %; no throttle"),
            "{words}"
        );
        let early = ConvergenceStatus {
            downtime: None,
            ..hopeless
        };
        assert!(
            early
                .to_string()
                .ends_with("no rate of the link is known yet")
        );
    }
}
