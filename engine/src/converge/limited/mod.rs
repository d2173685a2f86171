//! A policy under limits: one of the named policies, under [`Limits`] that a user may change at any
//! time, with a deadline.
//!
//! [`Limited`] does what is common to all policies: which one decides, how much downtime is allowed
//! by now, and what happens at the deadline. A policy that takes over starts with what is known of
//! the guest (its dirty curve; rates are in the observations) and with the throttle in force; a
//! throttle that it does not know is released.
//!
//! | `at_deadline` | at the deadline | before it, if the policy gives up |
//! |---|---|---|
//! | cancel | give up, unless the guest fits just now | give up |
//! | stop-trying | no throttle, stop once it fits | the same, at once |
//! | force | stop now, however long the downtime | no throttle, stop once it fits, until the deadline |
//!
//! A change of limits is a new try: a policy that had given up starts again.

mod ramp;
#[cfg(test)]
mod run_tests;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ramp::Ramp;

use super::limits::{AtDeadline, Limits, PolicyKind};
use super::{
    Classic, ClassicConfig, Decision, DirtyCurve, GiveUp, Observation, Policy, Predictive,
    PredictiveConfig, StopWhenFits, StopWhenFitsConfig, ThrottleShare,
};
use crate::units::PageCount;

/// See the module.
#[derive(Clone, Debug)]
pub struct Limited {
    limits: Limits,
    chosen: Chosen,
    /// Learned whichever policy decides.
    curve: DirtyCurve,
    ramp: Ramp,
    /// The throttle in force.
    throttle: ThrottleShare,
    /// The policy has given up, and the migration goes on without a throttle.
    is_waiting: bool,
    /// The downtime allowed at the last decision.
    allowed: Duration,
    /// The throttle in force must be asked for again: the strongest one for each vCPU has changed.
    is_outdated: bool,
}

/// The policy that decides, by its name.
#[derive(Clone, Debug)]
enum Chosen {
    Predictive(Predictive),
    Classic(Classic),
    None(StopWhenFits),
}

impl Limited {
    /// A policy under `limits`.
    pub fn new(limits: Limits) -> Self {
        let curve = DirtyCurve::default();
        Self {
            chosen: Chosen::new(&limits, &curve, ThrottleShare::NONE),
            limits,
            curve,
            ramp: Ramp::default(),
            throttle: ThrottleShare::NONE,
            is_waiting: false,
            allowed: limits.downtime.least(),
            is_outdated: false,
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether a round has ended and the guest may be stopped.
    fn fits(&self, seen: &Observation) -> bool {
        seen.round_ended && seen.fits(self.allowed)
    }

    /// Without a throttle: stop if it fits, or wait.
    fn wait(&mut self, seen: &Observation) -> Decision {
        if self.fits(seen) {
            return Decision::Stop;
        }
        match self.throttle {
            ThrottleShare::NONE => Decision::Continue,
            _ => Decision::Throttle(ThrottleShare::NONE),
        }
    }

    fn at_deadline(&mut self, seen: &Observation) -> Decision {
        match self.limits.at_deadline {
            AtDeadline::Force => Decision::Force,
            AtDeadline::StopTrying => self.wait(seen),
            AtDeadline::Cancel if self.fits(seen) => Decision::Stop,
            AtDeadline::Cancel => Decision::GiveUp(GiveUp::timed_out(seen, self.limits.timeout())),
        }
    }

    fn ask_policy(&mut self, seen: &Observation) -> Decision {
        match self.chosen.as_policy_mut().decide(seen) {
            // A longer downtime comes before giving up.
            Decision::GiveUp(_) if self.ramp.step(&self.limits, seen) => Decision::Continue,
            Decision::GiveUp(_) if self.limits.at_deadline != AtDeadline::Cancel => {
                self.is_waiting = true;
                self.wait(seen)
            }
            // This policy knows of no throttle that it could release.
            Decision::Continue
                if self.throttle != ThrottleShare::NONE
                    && matches!(self.chosen, Chosen::None(_)) =>
            {
                Decision::Throttle(ThrottleShare::NONE)
            }
            decision => decision,
        }
    }
}

impl Policy for Limited {
    fn decide(&mut self, seen: &Observation) -> Decision {
        if seen.round_ended {
            let (interval, pages) = (seen.between_harvests, seen.harvested);
            self.curve.harvested(seen.now, interval, seen.lost(), pages);
            self.ramp.round_ended(&self.limits, seen);
        }
        self.allowed = self.ramp.limit(&self.limits, seen.elapsed);
        self.chosen.allow(self.allowed);
        let decision = if self.limits.is_late(seen.elapsed) {
            self.at_deadline(seen)
        } else if self.is_waiting {
            self.wait(seen)
        } else {
            self.ask_policy(seen)
        };
        // A throttle that is not allowed any more ends at once.
        let most = self.chosen.strongest(seen);
        let decision = match decision {
            Decision::Continue if self.throttle > most || self.is_outdated => {
                Decision::Throttle(self.throttle.min(most))
            }
            decision => decision,
        };
        if let Decision::Throttle(share) = decision {
            self.throttle = share;
            self.is_outdated = false;
        }
        decision
    }

    fn hold_back(&self, seen: &Observation) -> PageCount {
        self.chosen.as_policy().hold_back(seen)
    }

    fn downtime_limit(&self) -> Duration {
        self.allowed
    }

    fn throttle_most(&self) -> ThrottleShare {
        self.chosen.as_policy().throttle_most()
    }

    fn set_limits(&mut self, limits: &Limits) {
        let before = std::mem::replace(&mut self.limits, *limits);
        if before == self.limits {
            return;
        }
        if before.downtime != self.limits.downtime {
            self.ramp = Ramp::default();
            self.allowed = self.limits.downtime.least();
        }
        if before.throttle_most != self.limits.throttle_most {
            self.is_outdated = self.throttle != ThrottleShare::NONE;
        }
        // A policy that had given up does not know that the throttle has ended.
        if std::mem::take(&mut self.is_waiting) || before.policy != self.limits.policy {
            self.chosen = Chosen::new(&self.limits, &self.curve, self.throttle);
        } else {
            self.chosen.limit(&self.limits);
        }
    }
}

impl Chosen {
    /// The policy that `limits` name, for a guest that writes as `curve` says and is throttled by
    /// `throttle`.
    fn new(limits: &Limits, curve: &DirtyCurve, throttle: ThrottleShare) -> Self {
        let mut chosen = match limits.policy {
            PolicyKind::Predictive => Self::Predictive(Predictive::taking_over(
                PredictiveConfig::default(),
                curve.clone(),
                throttle,
            )),
            PolicyKind::Classic => {
                Self::Classic(Classic::taking_over(ClassicConfig::default(), throttle))
            }
            PolicyKind::None => Self::None(StopWhenFits::new(StopWhenFitsConfig::default())),
        };
        chosen.limit(limits);
        chosen
    }

    /// Replaces the limits; the downtime is the least one.
    fn limit(&mut self, limits: &Limits) {
        let timeout = limits.timeout();
        match self {
            Self::Predictive(policy) => {
                let config = policy.config_mut();
                config.timeout = timeout;
                config.throttle_most = limits.throttle_most;
            }
            Self::Classic(policy) => {
                let config = policy.config_mut();
                config.timeout = timeout;
                let most = limits.throttle_most.unwrap_or(ThrottleShare::MOST);
                // At most 99 by the type.
                config.max_cpu_throttle = (most.as_permille() / 10) as u8;
            }
            Self::None(policy) => policy.config_mut().timeout = timeout,
        }
        self.allow(limits.downtime.least());
    }

    /// Allows a downtime of `downtime`.
    fn allow(&mut self, downtime: Duration) {
        match self {
            Self::Predictive(policy) => policy.config_mut().downtime = downtime,
            Self::Classic(policy) => policy.config_mut().downtime = downtime,
            Self::None(policy) => policy.config_mut().downtime = downtime,
        }
    }

    /// The strongest throttle of the guest.
    fn strongest(&self, seen: &Observation) -> ThrottleShare {
        match self {
            Self::Predictive(policy) => policy.strongest(seen),
            _ => self.as_policy().throttle_most(),
        }
    }

    fn as_policy(&self) -> &dyn Policy {
        match self {
            Self::Predictive(policy) => policy,
            Self::Classic(policy) => policy,
            Self::None(policy) => policy,
        }
    }

    fn as_policy_mut(&mut self) -> &mut dyn Policy {
        match self {
            Self::Predictive(policy) => policy,
            Self::Classic(policy) => policy,
            Self::None(policy) => policy,
        }
    }
}
