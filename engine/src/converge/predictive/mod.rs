//! Throttles only when it must, as little as will do, and releases again.
//!
//! At the end of every round the policy asks its [`DirtyCurve`] what comes next under a throttle:
//! sending `L` pages takes `t = L * bytes_per_page / link`, in which the guest, of whose work the
//! throttle takes `u`, writes `L' = D((1 - u) * t)` pages, and so on. The most that may be left at
//! the stop, `L_max`, follows from the allowed downtime, by the upper end of the forecast's
//! interval. So
//!
//! - if rounds without a throttle get there, the guest runs freely;
//! - if they do not, the policy waits, while it has patience, for the guest to calm down by itself;
//! - then it takes, of all shares up to the most allowed, the one with the least predicted harm
//!   (`plan`), which is the work that the guest does not get done.
//!
//! Pages that are written again and again are held back, as many as the allowed downtime has room
//! for: rounds of the others are shorter, and leave less. With `h` pages held back, a round sends
//! `L - h`, and leaves them and what was written of the others.
//!
//! A guest that may be stopped runs on for a round or two if it would then stand still for much
//! shorter: that costs it nothing.
//!
//! The question is asked anew at every round, so the throttle decays when the guest calms down.
//! Pure: everything it knows comes out of observations.

#[cfg(test)]
mod calm_tests;
mod plan;
mod progress;
#[cfg(test)]
mod tests;

use std::time::Duration;

use plan::Plan;
use progress::Progress;

use super::forecast::rounds::{HELD_SHARE, Held};
use super::throttle::response::USUAL_MOST;
use super::{
    Decision, DirtyCurve, DowntimeForecast, GiveUp, Observation, Policy, RoundsForecast,
    ThrottleShare,
};
use crate::units::{Instant, PageCount, Rate};

/// Limits of [`Predictive`].
#[derive(Clone, Copy, Debug)]
pub struct PredictiveConfig {
    /// Longest downtime allowed. The digest of verify mode is not counted against it.
    pub downtime: Duration,
    /// Longest time for the whole migration up to the stop.
    pub timeout: Duration,
    /// The largest share that the guest may be throttled by; `None`: 95 %, or more if it sleeps
    /// ([`ThrottleResponse::strongest`](super::ThrottleResponse::strongest)).
    pub throttle_most: Option<ThrottleShare>,
    /// How long to wait, once rounds stop getting smaller, before throttling.
    pub patience: Duration,
}

impl Default for PredictiveConfig {
    fn default() -> Self {
        Self {
            downtime: Duration::from_millis(50),
            timeout: Duration::from_secs(600),
            throttle_most: None,
            patience: Duration::from_secs(2),
        }
    }
}

/// How many times the patience a downtime may be too long for reasons beside the pages: that the
/// machine is busy for some seconds is no reason to give up.
const VAIN_PATIENCES: u32 = 5;

/// Rounds at most that only shorten a downtime which is allowed already.
const EXTRA_ROUNDS: u32 = 4;

/// Sending time below which a downtime is not worth another round.
const WORTH_A_ROUND: Duration = Duration::from_millis(4);

/// Share of what is left that another round must leave at most to be worth it.
const MUCH_LESS: f64 = 0.6;

/// How much less of the guest's work than its predecessor a new share must take to be worth a
/// change.
const HYSTERESIS: f64 = 0.03;

/// See the module.
#[derive(Clone, Debug)]
pub struct Predictive {
    config: PredictiveConfig,
    curve: DirtyCurve,
    throttle: ThrottleShare,
    progress: Progress,
    /// Since when no share at all would do.
    hopeless_since: Option<Instant>,
    /// Rounds that were only to shorten the downtime.
    extra_rounds: u32,
    /// Whether the round that begins is one of those.
    in_extra_round: bool,
    /// What the last round with held-back pages showed of them.
    held: Held,
}

impl Predictive {
    /// A policy with these limits.
    pub fn new(config: PredictiveConfig) -> Self {
        Self {
            config,
            curve: DirtyCurve::default(),
            throttle: ThrottleShare::NONE,
            progress: Progress::default(),
            hopeless_since: None,
            extra_rounds: 0,
            in_extra_round: false,
            held: Held::default(),
        }
    }

    /// A policy for a guest that writes by `curve` and is throttled by `throttle` already.
    pub(super) fn taking_over(
        config: PredictiveConfig,
        curve: DirtyCurve,
        throttle: ThrottleShare,
    ) -> Self {
        Self {
            curve,
            throttle,
            ..Self::new(config)
        }
    }

    /// The strongest throttle for the guest that was `seen`.
    pub(super) fn strongest(&self, seen: &Observation) -> ThrottleShare {
        self.plan(seen).strongest()
    }

    /// The limits, to be changed.
    pub(super) fn config_mut(&mut self) -> &mut PredictiveConfig {
        &mut self.config
    }

    /// What to expect if the guest is throttled by `share` from now on.
    pub fn rounds_forecast(&self, seen: &Observation, share: ThrottleShare) -> RoundsForecast {
        self.plan(seen).rounds_forecast(share)
    }

    fn plan<'a>(&'a self, seen: &'a Observation) -> Plan<'a> {
        Plan {
            curve: &self.curve,
            seen,
            limit: self.config.downtime,
            held: self.held,
            doubt: self.progress.doubt(),
            throttle: self.throttle,
            throttle_most: self.config.throttle_most,
        }
    }

    fn at_round_end(&mut self, seen: &Observation) -> Decision {
        self.curve
            .harvested(seen.now, seen.interval, seen.lost(), seen.harvested);
        self.held = Held::seen(seen);
        self.in_extra_round = false;
        let limit = self.config.downtime;
        if seen.fits(limit) {
            if self.another_round_pays(seen) {
                self.extra_rounds += 1;
                self.in_extra_round = true;
                return Decision::Continue;
            }
            return Decision::Stop;
        }
        if seen.most_left(limit).is_none() {
            return self.in_vain(seen);
        }
        let left_time = self.config.timeout.saturating_sub(seen.elapsed);
        self.progress.learn_to_doubt(seen);
        let free = self.rounds_forecast(seen, ThrottleShare::NONE);
        if free.ready_in.is_some_and(|ready| ready <= left_time) {
            self.hopeless_since = None;
            self.progress.goes_well();
            return self.change_to(seen, ThrottleShare::NONE);
        }
        let (is_throttled, patience) = (self.throttle > ThrottleShare::NONE, self.config.patience);
        if !self.progress.on_plateau(seen, is_throttled, patience) {
            return Decision::Continue;
        }
        match self.plan(seen).best(left_time) {
            Some(best) => {
                self.hopeless_since = None;
                self.change_to(seen, best.throttle)
            }
            None => self.without_hope(seen),
        }
    }

    /// Whether a guest that may be stopped would stand still for much shorter after one more round,
    /// which costs it nothing but the time of that round.
    fn another_round_pays(&self, seen: &Observation) -> bool {
        let left = seen.left.0 as f64;
        let Some(sending) = seen.round_seconds(left) else {
            return false;
        };
        if self.extra_rounds >= EXTRA_ROUNDS || sending < WORTH_A_ROUND.as_secs_f64() {
            return false;
        }
        let round = Duration::try_from_secs_f64(sending).unwrap_or_default();
        let lost = seen.response.lost(self.throttle);
        let next = self.curve.pages_in(round, lost);
        // A throttled guest pays for the round with what it loses in it.
        let worth = MUCH_LESS.min(1.0 - lost.as_fraction());
        next.is_some_and(|next| next < left * worth)
    }

    fn change_to(&mut self, seen: &Observation, share: ThrottleShare) -> Decision {
        let lost = |share| seen.response.lost(share).as_fraction();
        let less = lost(self.throttle) - lost(share);
        let hardly_less = share > ThrottleShare::NONE && (0.0..HYSTERESIS).contains(&less);
        if share == self.throttle || hardly_less {
            return Decision::Continue;
        }
        self.throttle = share;
        Decision::Throttle(share)
    }

    /// No share up to the most allowed would do. That may be a bad moment; for a while the most
    /// is tried.
    fn without_hope(&mut self, seen: &Observation) -> Decision {
        let since = *self.hopeless_since.get_or_insert(seen.now);
        let strongest = self.strongest(seen);
        let lost = |share| seen.response.lost(share).as_fraction();
        // What is known of the guest's demand changes a little from round to round.
        let tried = lost(self.throttle) > lost(strongest) - HYSTERESIS;
        if tried && seen.now.since(since) >= self.config.patience.max(seen.interval * 3) {
            return Decision::GiveUp(self.last_words(seen));
        }
        self.change_to(seen, strongest)
    }

    /// The downtime would be too long without a single page: no throttle helps. What is rehearsed
    /// wavers, more so on a busy machine, so it is given a while.
    fn in_vain(&mut self, seen: &Observation) -> Decision {
        let since = *self.hopeless_since.get_or_insert(seen.now);
        let waited = seen.now.since(since);
        // What is likely fits, and only the doubt does not: a busy machine stays busy.
        let likely = DowntimeForecast::of(seen).map(|parts| parts.total().likely());
        if waited >= self.config.patience
            && likely.is_some_and(|likely| likely <= self.config.downtime)
        {
            return Decision::Stop;
        }
        if waited >= self.config.patience * VAIN_PATIENCES {
            return Decision::GiveUp(GiveUp::too_long(seen, self.config.downtime));
        }
        self.change_to(seen, ThrottleShare::NONE)
    }

    fn last_words(&self, seen: &Observation) -> GiveUp {
        let link = seen.link.unwrap_or(Rate(0));
        // The limit at which the guest could be stopped right now.
        let would_do = upper_end(seen).unwrap_or(self.config.timeout);
        GiveUp::Hopeless {
            throttle: self.strongest(seen),
            left: seen.bytes_left(),
            dirty: seen.dirty.unwrap_or(Rate(0)),
            link,
            limit_ms: self.config.downtime.as_millis(),
            would_do_ms: would_do.as_millis(),
        }
    }
}

/// The longest that the downtime is expected to be, if the guest is stopped now.
fn upper_end(seen: &Observation) -> Option<Duration> {
    Some(DowntimeForecast::of(seen)?.total().high())
}

impl Policy for Predictive {
    fn decide(&mut self, seen: &Observation) -> Decision {
        if seen.elapsed >= self.config.timeout {
            return Decision::GiveUp(GiveUp::timed_out(seen, self.config.timeout));
        }
        if seen.round_ended {
            self.at_round_end(seen)
        } else {
            Decision::Continue
        }
    }

    fn hold_back(&self, seen: &Observation) -> PageCount {
        if self.in_extra_round {
            return PageCount(0);
        }
        let most = seen.most_left(self.config.downtime).unwrap_or(0.0);
        PageCount((most * HELD_SHARE) as u64)
    }

    fn downtime_limit(&self) -> Duration {
        self.config.downtime
    }

    fn throttle_most(&self) -> ThrottleShare {
        self.config.throttle_most.unwrap_or(USUAL_MOST)
    }
}
