//! The policy `none`: never throttles, stops once the downtime forecast fits by the upper end of its
//! interval, and gives up when it never will.

use std::time::Duration;

use super::limits::{DEFAULT_DEADLINE, DEFAULT_DOWNTIME};
use super::policy::STANDSTILL;
use super::{Decision, DowntimeForecast, GiveUp, Observation, Policy, ThrottleShare};
use crate::units::{ByteCount, Instant, Rate};

/// Limits of [`StopWhenFits`].
#[derive(Clone, Copy, Debug)]
pub struct StopWhenFitsConfig {
    /// Longest downtime allowed. The digest of verify mode is not counted against it.
    pub downtime: Duration,
    /// Longest time for the whole migration up to the stop.
    pub timeout: Duration,
    /// Rounds without progress before giving up, together with `stall_time`.
    pub stall_rounds: u32,
    /// Time without progress before giving up, together with `stall_rounds`.
    pub stall_time: Duration,
}

impl Default for StopWhenFitsConfig {
    fn default() -> Self {
        Self {
            downtime: DEFAULT_DOWNTIME,
            timeout: DEFAULT_DEADLINE,
            stall_rounds: 8,
            stall_time: Duration::from_secs(8),
        }
    }
}

/// Stops the guest as soon as the downtime forecast fits the limit.
///
/// Gives up at the timeout; when for `stall_rounds` rounds and `stall_time` no round left at least
/// 3 % less than the best one before; and at once when the downtime is likely to be too long with no
/// page to send.
#[derive(Clone, Copy, Debug)]
pub struct StopWhenFits {
    config: StopWhenFitsConfig,
    best: Option<Best>,
}

/// The round that left least so far.
#[derive(Clone, Copy, Debug)]
struct Best {
    bytes: ByteCount,
    round: u32,
    at: Instant,
}

impl StopWhenFits {
    /// A policy with these limits.
    pub fn new(config: StopWhenFitsConfig) -> Self {
        Self { config, best: None }
    }

    /// The limits, to be changed.
    pub(super) fn config_mut(&mut self) -> &mut StopWhenFitsConfig {
        &mut self.config
    }

    /// The reason to give up, if the set to send has stopped shrinking or the downtime is too long
    /// without it.
    fn stalled(&mut self, seen: &Observation) -> Option<GiveUp> {
        let left = seen.bytes_left();
        let best = self
            .best
            .filter(|best| left.0 as f64 >= best.bytes.0 as f64 * STANDSTILL);
        let best = *self.best.insert(best.unwrap_or(Best {
            bytes: left,
            round: seen.round,
            at: seen.now,
        }));
        let long = seen.now.since(best.at);
        let rounds = seen.round.saturating_sub(best.round);
        // If only the upper end is too long, it may still come down.
        if seen.fixed.total().likely() > self.config.downtime {
            return Some(GiveUp::too_long(seen, self.config.downtime));
        }
        let stalled = rounds >= self.config.stall_rounds && long >= self.config.stall_time;
        stalled.then(|| GiveUp::Stalled {
            left,
            rounds: seen.round,
            stalled_s: long.as_secs_f64(),
            dirty: seen.dirty.unwrap_or(Rate(0)),
            link: seen.link.unwrap_or(Rate(0)),
            forecast_ms: DowntimeForecast::of(seen)
                .map_or(0, |parts| parts.total().high().as_millis()),
            limit_ms: self.config.downtime.as_millis(),
        })
    }
}

impl Policy for StopWhenFits {
    fn decide(&mut self, seen: &Observation) -> Decision {
        if seen.round_ended && seen.fits(self.config.downtime) {
            return Decision::Stop;
        }
        if seen.elapsed >= self.config.timeout {
            return Decision::GiveUp(GiveUp::timed_out(seen, self.config.timeout));
        }
        let stalled = if seen.round_ended {
            self.stalled(seen)
        } else {
            None
        };
        stalled.map_or(Decision::Continue, Decision::GiveUp)
    }

    fn downtime_limit(&self) -> Duration {
        self.config.downtime
    }

    fn throttle_most(&self) -> ThrottleShare {
        ThrottleShare::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::super::forecast::downtime::tests::seen;
    use super::super::{FixedCosts, Interval};
    use super::*;

    fn policy() -> StopWhenFits {
        StopWhenFits::new(StopWhenFitsConfig::default())
    }

    #[test]
    fn it_stops_in_the_first_round_whose_forecast_fits() {
        let mut policy = policy();
        assert_eq!(policy.decide(&seen(1000, 1, 10_000)), Decision::Continue);
        assert_eq!(
            policy.decide(&seen(1400, 2, 1_000)),
            Decision::Continue,
            "51 ms"
        );
        assert_eq!(
            policy.decide(&seen(1450, 2, 900)),
            Decision::Continue,
            "47 ms, but 53 by the upper end"
        );
        assert_eq!(policy.decide(&seen(1500, 3, 800)), Decision::Stop, "49 ms");
    }

    #[test]
    fn within_a_round_it_only_watches_the_time() {
        let mut policy = policy();
        let mut seen = Observation {
            round_ended: false,
            ..seen(1000, 2, 0)
        };
        assert_eq!(policy.decide(&seen), Decision::Continue);
        seen.elapsed = Duration::from_secs(600);
        assert!(matches!(
            policy.decide(&seen),
            Decision::GiveUp(GiveUp::TimedOut { .. })
        ));
    }

    #[test]
    fn a_plateau_ends_in_giving_up_with_the_numbers() {
        let mut policy = policy();
        let mut decision = Decision::Continue;
        let mut round = 0;
        while decision == Decision::Continue {
            round += 1;
            assert!(round < 100, "never loops for ever");
            decision = policy.decide(&seen(u64::from(round) * 2000, round, 50_000));
        }
        let Decision::GiveUp(reason) = decision else {
            panic!("gave up")
        };
        assert_eq!(round, 9, "eight rounds after the first");
        let text = reason.to_string();
        assert!(text.contains("47.7 MiB/s of distinct pages"), "{text}");
        assert!(text.contains("the link carries 95.4 MiB/s"), "{text}");
        assert!(
            text.contains("up to 2424 ms where 50 ms are allowed"),
            "{text}"
        );
    }

    #[test]
    fn a_downtime_that_nothing_can_shorten_is_given_up_at_once() {
        let mut policy = policy();
        let seen = Observation {
            fixed: FixedCosts::lump(Interval::exactly(Duration::from_millis(60))),
            ..seen(1000, 3, 0)
        };
        assert!(matches!(
            policy.decide(&seen),
            Decision::GiveUp(GiveUp::TooLong {
                fixed_ms: 60,
                harvest_ms: 0,
                limit_ms: 50
            })
        ));
    }

    #[test]
    fn slow_progress_is_not_a_stall() {
        let mut policy = policy();
        let mut left = 1_000_000.0;
        for round in 1..60 {
            left *= 0.95;
            let decision = policy.decide(&seen(u64::from(round) * 2000, round, left as u64));
            assert_eq!(decision, Decision::Continue, "round {round}");
        }
    }
}
