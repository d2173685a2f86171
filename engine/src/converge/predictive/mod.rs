//! The policy `predictive`: throttles only when it must, as little as is enough, and releases again.
//!
//! At the end of every round it reads off the [`DirtyCurve`] what comes next under a throttle:
//! sending `L` pages takes `t = L * bytes_per_page / link`, in which the guest, of whose work the
//! throttle takes the part `u`, writes `L' = D((1 - u) * t)` pages, and so on. The most that may be
//! left at the stop, `L_max`, follows from the downtime allowed, by the upper end of the forecast.
//!
//! - If rounds without a throttle get there, the guest is not throttled.
//! - If they do not, the policy waits for the guest to calm down by itself, as long as its patience
//!   lasts.
//! - Then it takes the share, of all up to the strongest one, that costs the guest the least work
//!   until it can be stopped (`plan`).
//!
//! Pages that are written again and again are held back, as many as the downtime allowed has room
//! for: rounds of the others are shorter and leave less. With `h` pages held back, a round sends
//! `L - h`, and leaves these and what was written of the others.
//!
//! A guest that may be stopped runs for another round or two if its downtime would then be much
//! shorter: without a throttle this costs it nothing.
//!
//! All of this is decided anew at every round, so the throttle decays when the guest calms down.

#[cfg(test)]
mod calm_tests;
mod plan;
mod progress;
#[cfg(test)]
mod tests;

use std::time::Duration;

use plan::Plan;
use progress::Progress;

use super::forecast::rounds::{HELD_BACK_PART, HeldBack};
use super::limits::{DEFAULT_DEADLINE, DEFAULT_DOWNTIME};
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
    /// The strongest throttle; `None`: 95 %, or more if the guest sleeps
    /// ([`ThrottleResponse::strongest`](super::ThrottleResponse::strongest)).
    pub throttle_most: Option<ThrottleShare>,
    /// How long to wait before throttling, once rounds make no progress.
    pub patience: Duration,
}

impl Default for PredictiveConfig {
    fn default() -> Self {
        Self {
            downtime: DEFAULT_DOWNTIME,
            timeout: DEFAULT_DEADLINE,
            throttle_most: None,
            patience: Duration::from_secs(2),
        }
    }
}

/// Time, in units of the patience, for which the parts of the downtime beside the pages may be too
/// long: a machine that is busy for some seconds is no reason to give up.
const TOO_LONG_PATIENCES: u32 = 5;

/// Most rounds that only shorten a downtime which is allowed already.
const EXTRA_ROUNDS: u32 = 4;

/// Sending time below which another round is not worth it: a tick of the scheduler, which no round
/// can save.
const WORTH_A_ROUND: Duration = Duration::from_millis(4);

/// Part of what is left that another round must leave at most to be worth it.
const MUCH_LESS: f64 = 0.6;

/// How much less of the guest's work a new throttle must take than the one in force to be worth a
/// change.
const HYSTERESIS: f64 = 0.03;

/// The policy; see the module.
#[derive(Clone, Debug)]
pub struct Predictive {
    config: PredictiveConfig,
    curve: DirtyCurve,
    throttle: ThrottleShare,
    progress: Progress,
    /// Since when no throttle is enough, or the parts beside the pages are too long.
    hopeless_since: Option<Instant>,
    /// Rounds so far that only shorten the downtime.
    extra_rounds: u32,
    /// Whether the round that begins is one of those.
    in_extra_round: bool,
    /// The pages held back, as the last harvest showed them.
    held_back: HeldBack,
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
            held_back: HeldBack::default(),
        }
    }

    /// A policy for a guest that writes as `curve` says and is throttled by `throttle` already.
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

    /// The rounds to come if the guest is throttled by `share` from now on.
    pub fn rounds_forecast(&self, seen: &Observation, share: ThrottleShare) -> RoundsForecast {
        self.plan(seen).rounds_forecast(share)
    }

    fn plan<'a>(&'a self, seen: &'a Observation) -> Plan<'a> {
        Plan {
            curve: &self.curve,
            seen,
            limit: self.config.downtime,
            held_back: self.held_back,
            margin: self.progress.margin(),
            throttle: self.throttle,
            throttle_most: self.config.throttle_most,
        }
    }

    fn at_round_end(&mut self, seen: &Observation) -> Decision {
        self.curve
            .harvested(seen.now, seen.between_harvests, seen.lost(), seen.harvested);
        self.held_back = HeldBack::seen(seen);
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
            return self.too_long(seen);
        }
        let left_time = self.config.timeout.saturating_sub(seen.elapsed);
        self.progress.adjust_margin(seen);
        let unthrottled = self.rounds_forecast(seen, ThrottleShare::NONE);
        if unthrottled.ready_in.is_some_and(|ready| ready <= left_time) {
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
            None => self.hopeless(seen),
        }
    }

    /// Whether one more round would make the downtime of a guest that may be stopped much shorter.
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
        // A throttled guest loses work in that round.
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

    /// No throttle is enough by the forecast. The moment may be a bad one, so the strongest throttle
    /// is tried for a while.
    fn hopeless(&mut self, seen: &Observation) -> Decision {
        let since = *self.hopeless_since.get_or_insert(seen.now);
        let strongest = self.strongest(seen);
        let lost = |share| seen.response.lost(share).as_fraction();
        // The measured demand changes a little from round to round.
        let tried = lost(self.throttle) > lost(strongest) - HYSTERESIS;
        if tried && seen.now.since(since) >= self.config.patience.max(seen.between_harvests * 3) {
            return Decision::GiveUp(self.reason(seen));
        }
        self.change_to(seen, strongest)
    }

    /// The downtime would be too long with no page to send: no throttle helps. Calibration wavers,
    /// more so on a busy machine, so it is given a while.
    fn too_long(&mut self, seen: &Observation) -> Decision {
        let since = *self.hopeless_since.get_or_insert(seen.now);
        let waited = seen.now.since(since);
        // The likely downtime fits, and only its upper end does not: a busy machine stays busy.
        let likely = DowntimeForecast::of(seen).map(|parts| parts.total().likely());
        if waited >= self.config.patience
            && likely.is_some_and(|likely| likely <= self.config.downtime)
        {
            return Decision::Stop;
        }
        if waited >= self.config.patience * TOO_LONG_PATIENCES {
            return Decision::GiveUp(GiveUp::too_long(seen, self.config.downtime));
        }
        self.change_to(seen, ThrottleShare::NONE)
    }

    fn reason(&self, seen: &Observation) -> GiveUp {
        let link = seen.link.unwrap_or(Rate(0));
        // The limit at which the guest could be stopped now.
        let would_do =
            DowntimeForecast::of(seen).map_or(self.config.timeout, |parts| parts.total().high());
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
        PageCount((most * HELD_BACK_PART) as u64)
    }

    fn downtime_limit(&self) -> Duration {
        self.config.downtime
    }

    fn throttle_most(&self) -> ThrottleShare {
        self.config.throttle_most.unwrap_or(USUAL_MOST)
    }
}
