//! Throttles only when it must, as little as will do, and releases again.
//!
//! At the end of every round the policy asks its [`DirtyCurve`] what comes next if the guest is
//! throttled by a share `u`: sending `L` pages takes `t = L * bytes_per_page / link`, in which the
//! guest, running for `(1 - u) * t`, writes `L' = D((1 - u) * t)` pages, and so on. The most that
//! may be left at the stop, `L_max`, follows from the allowed blackout, by the upper end of the
//! forecast's interval. So
//!
//! - if rounds without a throttle get there, the guest runs freely;
//! - if they do not, the policy waits, while it has patience, for the guest to calm down by itself;
//! - then it takes, of all shares up to the most allowed, the one with the least predicted harm,
//!   the integral of the share over the time it takes to get there. (Where writes all go to new
//!   pages, a strong throttle for a short time does less harm than a weak one for a long time:
//!   with a guest that writes `a` times what the link carries, the integral is
//!   `t * u / (1 - a + u * a)`, which falls with `u` for `a > 1`.)
//!
//! Pages that are written again and again are held back, as many as the allowed blackout has room
//! for: rounds of the others are shorter, and leave less. With `h` pages held back, a round sends
//! `L - h`, and leaves them and what was written of the others.
//!
//! A guest that may be stopped runs on for a round or two if it would then stand still for much
//! shorter: that costs it nothing.
//!
//! The question is asked anew at every round, so the throttle decays when the guest calms down.
//! Pure: everything it knows comes out of observations.

use std::time::Duration;

use super::outlook::{HELD_SHARE, Held, Manner};
use super::{Decision, DirtyCurve, Forecast, GiveUp, Observation, Outlook, Policy, Share};
use crate::units::{ByteCount, Instant, PageCount, Rate};

/// Limits of [`Predictive`].
#[derive(Clone, Copy, Debug)]
pub struct PredictiveConfig {
    /// Longest blackout allowed. The digest of verify mode is not counted against it.
    pub downtime: Duration,
    /// Longest time for the whole migration up to the stop.
    pub timeout: Duration,
    /// The largest share the guest may be throttled by.
    pub throttle_most: Share,
    /// How long to wait, once rounds stop getting smaller, before throttling.
    pub patience: Duration,
}

impl Default for PredictiveConfig {
    fn default() -> Self {
        Self {
            downtime: Duration::from_millis(50),
            timeout: Duration::from_secs(600),
            throttle_most: Share::permille(950),
            patience: Duration::from_secs(2),
        }
    }
}

/// Shares that are compared, as steps of the most allowed.
const SHARES: u32 = 16;

/// A round that leaves more than this share of what it began with makes no progress.
const PLATEAU: f64 = 0.85;

/// How many times the patience a blackout may be too long for reasons beside the pages: that the
/// machine is busy for some seconds is no reason to give up.
const VAIN_PATIENCES: u32 = 5;

/// A round that leaves more than this share of what the one before left goes nowhere, whatever was
/// predicted.
const STANDSTILL: f64 = 0.97;

/// How much more than predicted the rounds are taken to leave after each round that went nowhere
/// although the prediction was that it all ends well, and the most of it.
const MORE_DOUBT: f64 = 1.05;
const MOST_DOUBT: f64 = 2.0;

/// Harm of a second that the migration takes, against a second that the guest does not run: small,
/// so that time is only the judge between equals.
const TIME_WEIGHT: f64 = 0.02;

/// Standard deviations that the guest is expected to write more when less throttled than it is.
const CAUTION: f64 = 1.0;

/// Rounds at most that only shorten a blackout which is allowed already.
const EXTRA_ROUNDS: u32 = 4;

/// Sending time below which a blackout is not worth another round.
const WORTH_A_ROUND: Duration = Duration::from_millis(4);

/// Share of what is left that another round must leave at most to be worth it.
const MUCH_LESS: f64 = 0.6;

/// How far below its predecessor a new share must be to be worth a change.
const HYSTERESIS: f64 = 0.03;

/// See the module.
#[derive(Clone, Debug)]
pub struct Predictive {
    config: PredictiveConfig,
    curve: DirtyCurve,
    throttle: Share,
    /// Since when rounds have not been getting smaller.
    plateau_since: Option<Instant>,
    /// What was left after the round before.
    left_before: Option<f64>,
    /// Since when no share at all would do.
    hopeless_since: Option<Instant>,
    /// Rounds that were only to shorten the blackout.
    extra_rounds: u32,
    /// Whether the round that begins is one of those.
    in_extra_round: bool,
    /// What the last round with held-back pages showed of them.
    held: Held,
    /// What rounds leave without a throttle, against what is predicted; from 1. Small errors of a
    /// prediction add up over its rounds: where it is a near thing whether they shrink, only what
    /// happens can tell.
    doubt: f64,
    /// What was left after the round before, whatever it was for.
    seen_before: Option<PageCount>,
}

impl Predictive {
    /// A policy with these limits.
    pub fn new(config: PredictiveConfig) -> Self {
        Self {
            config,
            curve: DirtyCurve::default(),
            throttle: Share::NONE,
            plateau_since: None,
            left_before: None,
            hopeless_since: None,
            extra_rounds: 0,
            in_extra_round: false,
            held: Held::default(),
            doubt: 1.0,
            seen_before: None,
        }
    }

    /// A policy for a guest that writes by `curve` and is throttled by `throttle` already.
    pub(super) fn taking_over(
        config: PredictiveConfig,
        curve: DirtyCurve,
        throttle: Share,
    ) -> Self {
        Self {
            curve,
            throttle,
            ..Self::new(config)
        }
    }

    /// The limits, to be changed.
    pub(super) fn config_mut(&mut self) -> &mut PredictiveConfig {
        &mut self.config
    }

    /// What to expect if the guest is throttled by `share` from now on.
    pub fn outlook(&self, seen: &Observation, share: Share) -> Outlook {
        // To let go of a throttle takes more than a hope: a guest that was let go too early costs
        // the rounds that it was throttled for.
        let caution = if share < self.throttle { CAUTION } else { 0.0 };
        let doubt = if share == Share::NONE {
            self.doubt
        } else {
            1.0
        };
        let manner = Manner {
            held: self.held,
            caution,
            doubt,
        };
        let limit = self.config.downtime;
        Outlook::of(&self.curve, seen, limit, share, manner)
    }

    /// The share with the least harm that gets there in `time`, if one does.
    fn best(&self, seen: &Observation, time: Duration) -> Option<Outlook> {
        let most = self.config.throttle_most.as_fraction();
        let cost = |outlook: &Outlook| {
            let ready = outlook
                .ready_in
                .map_or(f64::INFINITY, |time| time.as_secs_f64());
            outlook.harm_s + ready * TIME_WEIGHT
        };
        (0..=SHARES)
            .map(|step| Share::fraction(most * f64::from(step) / f64::from(SHARES)))
            .map(|share| self.outlook(seen, share))
            .filter(|outlook| outlook.ready_in.is_some_and(|ready| ready <= time))
            .min_by(|a, b| cost(a).total_cmp(&cost(b)))
    }

    /// Compares the last prediction, that it all ends well, with what came.
    fn learn_to_doubt(&mut self, seen: &Observation) {
        let went_nowhere = self
            .seen_before
            .replace(seen.left)
            .is_some_and(|before| seen.left.0 as f64 > before.0 as f64 * STANDSTILL);
        if went_nowhere {
            self.doubt = (self.doubt * MORE_DOUBT).min(MOST_DOUBT);
        } else {
            self.doubt = 1.0 + (self.doubt - 1.0) / 2.0;
        }
    }

    /// Whether rounds have stopped getting smaller.
    fn on_plateau(&mut self, seen: &Observation) -> bool {
        let left = seen.left.0 as f64;
        let before = self.left_before.replace(left);
        let shrinking = before.is_none_or(|before| left < before * PLATEAU);
        if shrinking && self.throttle == Share::NONE {
            self.plateau_since = None;
            return false;
        }
        let since = *self.plateau_since.get_or_insert(seen.now);
        // A round that began before the plateau was noticed is a part of it.
        seen.now.since(since) + seen.interval >= self.config.patience
    }

    fn at_round_end(&mut self, seen: &Observation) -> Decision {
        self.curve
            .harvested(seen.now, seen.interval, seen.throttled, seen.harvested);
        self.held = Held::seen(seen);
        self.in_extra_round = false;
        let limit = self.config.downtime;
        if upper_end(seen).is_some_and(|time| time <= limit) {
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
        self.learn_to_doubt(seen);
        let free = self.outlook(seen, Share::NONE);
        if free.ready_in.is_some_and(|ready| ready <= left_time) {
            self.hopeless_since = None;
            self.plateau_since = None;
            return self.change_to(Share::NONE);
        }
        if !self.on_plateau(seen) {
            return Decision::Continue;
        }
        match self.best(seen, left_time) {
            Some(best) => {
                self.hopeless_since = None;
                self.change_to(best.throttle)
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
        let next = self.curve.pages_in(round, self.throttle);
        // A throttled guest pays for the round with that share of it.
        let worth = MUCH_LESS.min(1.0 - self.throttle.as_fraction());
        next.is_some_and(|next| next < left * worth)
    }

    fn change_to(&mut self, share: Share) -> Decision {
        let (old, new) = (self.throttle.as_fraction(), share.as_fraction());
        if share == self.throttle || (new < old && new > 0.0 && old - new < HYSTERESIS) {
            return Decision::Continue;
        }
        self.throttle = share;
        Decision::Throttle(share)
    }

    /// No share up to the most allowed would do. That may be a bad moment; for a while the most
    /// is tried.
    fn without_hope(&mut self, seen: &Observation) -> Decision {
        let since = *self.hopeless_since.get_or_insert(seen.now);
        let tried = self.throttle == self.config.throttle_most;
        if tried && seen.now.since(since) >= self.config.patience.max(seen.interval * 3) {
            return Decision::GiveUp(self.last_words(seen));
        }
        self.change_to(self.config.throttle_most)
    }

    /// The blackout would be too long without a single page: no throttle helps. What is rehearsed
    /// wavers, more so on a busy machine, so it is given a while.
    fn in_vain(&mut self, seen: &Observation) -> Decision {
        let since = *self.hopeless_since.get_or_insert(seen.now);
        let waited = seen.now.since(since);
        // What is likely fits, and only the doubt does not: a busy machine stays busy.
        let likely = Forecast::of(seen)
            .blackout
            .map(|parts| parts.total().likely());
        if waited >= self.config.patience
            && likely.is_some_and(|likely| likely <= self.config.downtime)
        {
            return Decision::Stop;
        }
        if waited >= self.config.patience * VAIN_PATIENCES {
            return Decision::GiveUp(GiveUp::too_long(seen, self.config.downtime));
        }
        self.change_to(Share::NONE)
    }

    fn last_words(&self, seen: &Observation) -> GiveUp {
        let link = seen.link.unwrap_or(Rate(0));
        // The limit at which the guest could be stopped right now.
        let would_do = upper_end(seen).unwrap_or(self.config.timeout);
        GiveUp::Hopeless {
            throttle: self.config.throttle_most,
            left: Forecast::of(seen).bytes,
            dirty: seen.dirty.unwrap_or(Rate(0)),
            link,
            limit_ms: self.config.downtime.as_millis(),
            would_do_ms: would_do.as_millis(),
        }
    }
}

/// The longest that the blackout is expected to be, if the guest is stopped now.
fn upper_end(seen: &Observation) -> Option<Duration> {
    Some(Forecast::of(seen).blackout?.total().high())
}

impl Policy for Predictive {
    fn decide(&mut self, seen: &Observation) -> Decision {
        if seen.elapsed >= self.config.timeout {
            return Decision::GiveUp(GiveUp::TimedOut {
                limit_s: self.config.timeout.as_secs_f64(),
                left: ByteCount(Forecast::of(seen).bytes.0),
                dirty: seen.dirty.unwrap_or(Rate(0)),
                link: seen.link.unwrap_or(Rate(0)),
            });
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

    fn throttle_most(&self) -> Share {
        self.config.throttle_most
    }
}

#[cfg(test)]
mod tests {
    use super::super::fluid::Workload;
    use super::super::{COVERAGE, Classic, ClassicConfig, Ended, Run};
    use super::*;

    fn config() -> PredictiveConfig {
        PredictiveConfig {
            timeout: Duration::from_secs(120),
            ..PredictiveConfig::default()
        }
    }

    fn run(workload: Workload, config: PredictiveConfig) -> Run {
        workload.run(&mut Predictive::new(config), 7)
    }

    #[test]
    fn a_guest_that_converges_by_itself_is_never_throttled() {
        // 30 MB/s of new pages against 100 MB/s.
        let ran = run(Workload::uniform(200_000, 7_500.0), config());
        assert!(matches!(ran.ended, Ended::Completed { .. }), "{ran:?}");
        assert_eq!(ran.throttle_most, Share::NONE);
    }

    #[test]
    fn a_guest_that_writes_too_fast_is_throttled_and_completes() {
        // 300 MB/s against 100 MB/s.
        let ran = run(Workload::uniform(500_000, 75_000.0), config());
        let Ended::Completed { blackout } = ran.ended else {
            panic!("{ran:?}")
        };
        assert!(blackout <= Duration::from_millis(50), "{ran:?}");
        assert!(ran.throttle_most <= Share::permille(950), "{ran:?}");
    }

    #[test]
    fn the_throttle_is_released_when_the_guest_calms_down() {
        let mut workload = Workload::uniform(500_000, 60_000.0);
        workload.calm_from = Some(Duration::from_secs(40));
        let most = Share::permille(300);
        let ran = run(
            workload,
            PredictiveConfig {
                throttle_most: most,
                ..config()
            },
        );
        assert!(
            matches!(ran.ended, Ended::Completed { .. } | Ended::GaveUp),
            "{ran:?}"
        );
        let calm = Workload {
            calm_from: Some(Duration::from_secs(12)),
            ..workload
        };
        let ran = run(calm, config());
        assert!(matches!(ran.ended, Ended::Completed { .. }), "{ran:?}");
        assert!(ran.harm_s < 20.0, "{ran:?}");
    }

    #[test]
    fn a_hopeless_guest_is_given_up_with_words() {
        // A hot set of 400 MB written 20 times a second, and hardly any throttle allowed.
        let most = Share::permille(100);
        let config = PredictiveConfig {
            throttle_most: most,
            ..config()
        };
        let ran = run(Workload::uniform(100_000, 2_000_000.0), config);
        assert!(matches!(ran.ended, Ended::GaveUp), "{ran:?}");
        assert!(ran.took < Duration::from_secs(60), "{ran:?}");
    }

    #[test]
    fn a_blackout_that_is_too_long_without_a_page_is_given_up_without_a_throttle() {
        let config = PredictiveConfig {
            downtime: Duration::from_millis(5),
            ..config()
        };
        let ran = run(Workload::uniform(200_000, 7_500.0), config);
        assert!(matches!(ran.ended, Ended::GaveUp), "{ran:?}");
        assert_eq!(ran.throttle_most, Share::NONE);
        assert!(ran.took < Duration::from_secs(30), "{ran:?}");
    }

    /// Thousands of guests: the limit holds in 99 % of the runs that complete, the interval of the
    /// forecast in 90 %, no run goes on for ever, and the harm stays below that of auto-converge.
    #[test]
    fn the_limit_holds_over_thousands_of_guests() {
        let (mut completed, mut kept, mut held) = (0u32, 0u32, 0u32);
        let (mut harm, mut classic_harm) = (0.0, 0.0);
        for seed in 0..2000 {
            let workload = Workload::seeded(seed);
            let ran = workload.run(&mut Predictive::new(config()), seed);
            assert!(
                ran.took <= config().timeout + Duration::from_secs(1),
                "seed {seed}: {ran:?}"
            );
            if let Ended::Completed { blackout } = ran.ended {
                completed += 1;
                kept += u32::from(blackout <= config().downtime);
                let forecast = ran.forecast.expect("a guest that was stopped").total();
                held += u32::from(forecast.holds(blackout));
                let classic = ClassicConfig {
                    downtime: config().downtime,
                    timeout: config().timeout,
                    ..ClassicConfig::default()
                };
                let other = workload.run(&mut Classic::new(classic), seed);
                harm += ran.harm_s;
                classic_harm += other.harm_s;
            }
        }
        eprintln!(
            "completed {completed}, kept {kept}, held {held}, harm {harm:.0} s against \
             {classic_harm:.0} s"
        );
        assert!(
            f64::from(held) >= COVERAGE * f64::from(completed),
            "the interval held {held} of {completed} blackouts"
        );
        assert!(completed > 1000, "{completed}");
        assert!(
            f64::from(kept) >= 0.99 * f64::from(completed),
            "{kept} of {completed}"
        );
        assert!(harm <= classic_harm * 0.55, "{harm} against {classic_harm}");
    }
}
