//! What the policy is told and asked: whether to go on, and what each answer does.
//!
//! Everything it sees is in one [`Observation`]; it is asked at the end of every round and every
//! [`POLICY_TICK`] within one.

use std::time::Duration;

use super::Source;
use super::switchover::StopDecision;
use crate::converge::{
    ConvergenceStatus, Decision, DowntimeForecast, GivenUp, Limits, Observation, Remedy,
    SwitchoverCosts, ThrottleResponse, ThrottleShare,
};
use crate::migration::error::MigrationError;
use crate::units::{Instant, PageCount};

/// How often the policy is asked within a round.
pub(super) const POLICY_TICK: Duration = Duration::from_millis(50);

impl Source {
    /// The user has changed the limits. They count as long as the guest runs.
    pub fn set_limits(&mut self, now: Instant, limits: &Limits) {
        self.convergence.policy.set_limits(limits);
        // It is asked at once, not at the next tick.
        self.convergence.ask_at = now;
    }

    /// The link has another rate from now on: what pages took before says nothing any more.
    pub fn link_changed(&mut self) {
        self.measures.link_changed();
    }

    /// What stopping and starting the guest costs, as far as it is known now.
    pub fn set_switchover_costs(&mut self, costs: SwitchoverCosts) {
        self.measures.switchover_costs(costs);
    }

    /// Between the last two harvests the throttle has had the effect of `share` for all vCPUs,
    /// which need not be what was asked for; `None`: it was. A throttle takes as much of the
    /// guest's work as `response` says.
    pub fn throttle_had(&mut self, share: Option<ThrottleShare>, response: ThrottleResponse) {
        self.throttle.had(share, response);
    }

    /// The largest share that the policy allows for any vCPU.
    pub fn throttle_most(&self) -> ThrottleShare {
        self.convergence.policy.throttle_most()
    }

    /// The downtime that is allowed by now.
    pub fn downtime_allowed(&self) -> Duration {
        self.convergence.policy.downtime_limit()
    }

    /// Takes the pages out of the coming round that the policy lets wait.
    pub(super) fn hold_back(&mut self, now: Instant) {
        let observation = self.observe(now, true);
        let most = self.convergence.policy.hold_back(&observation);
        self.send_set.hold_back(most);
    }

    pub(super) fn observe(&self, now: Instant, round_ended: bool) -> Observation {
        let (set, estimates) = (&self.send_set, self.measures.estimates());
        let in_flight = self.channels.bytes_in_flight();
        // After a harvest the pages that were held back are among those left.
        let held_yet = if round_ended { 0 } else { set.held().0 };
        let left = PageCount(set.left().0 + held_yet);
        let pages = self.measures.page_costs(now, in_flight);
        let trip = estimates.calibration.round_trip().likely();
        Observation {
            now,
            elapsed: now.since(self.began),
            round: self.round,
            round_ended,
            left,
            held: set.held(),
            held_written: set.held_written(),
            in_flight,
            bytes_per_page: pages.bytes(left),
            round_page_bytes: self.measures.round_page_bytes(),
            page_time: pages.time(left, &estimates.link, trip),
            link: estimates.link.rate(),
            dirty: estimates.dirty(),
            fixed: estimates.calibration.costs(self.verify),
            harvested: estimates.last_harvest(),
            between_harvests: estimates.last_interval(),
            throttled: self.throttle.effect(),
            response: self.throttle.response(),
            placed: self.channels.placed_bytes(),
        }
    }

    /// The downtime if the guest is stopped because of what was `seen`. Within a round it has
    /// written pages that nobody has harvested.
    fn forecast_at_stop(&self, now: Instant, seen: Observation) -> Option<DowntimeForecast> {
        let unseen = match seen.round_ended {
            true => 0,
            false => self.measures.estimates().written_since_harvest(now).0,
        };
        let all = self.layout.pages().0.saturating_sub(seen.left.0);
        let left = PageCount(seen.left.0 + unseen.min(all));
        DowntimeForecast::of(&Observation { left, ..seen })
    }

    pub(super) fn ask_policy(
        &mut self,
        now: Instant,
        round_ended: bool,
    ) -> Result<(), MigrationError> {
        let seen = self.observe(now, round_ended);
        let policy = &mut self.convergence.policy;
        match policy.decide(&seen) {
            Decision::Continue => {}
            Decision::Throttle(share) => self.throttle.ask(share),
            decision @ (Decision::Stop | Decision::Force) => {
                let forecast = self.forecast_at_stop(now, seen);
                self.state.stop(StopDecision {
                    forced: decision == Decision::Force,
                    forecast,
                });
            }
            Decision::GiveUp(reason) => {
                let limit = policy.downtime_limit();
                let remedy = Remedy::of(&self.measures.estimates().curve, &seen, limit);
                let given_up = Box::new(GivenUp { reason, remedy });
                return Err(MigrationError::NotConverging(given_up));
            }
        }
        Ok(())
    }

    /// Takes down where the migration stands, for people, if that is due.
    pub(super) fn take_convergence_status(&mut self, now: Instant) {
        if !self.convergence.begin_status(now) {
            return;
        }
        let estimates = self.measures.estimates();
        let limit = self.convergence.policy.downtime_limit();
        let seen = self.observe(now, true);
        let mut status = ConvergenceStatus::of(&estimates.curve, &seen, limit);
        status.throttle = self.throttle.given();
        status.delta_share = estimates.pages.delta_share();
        self.convergence.set_status(status);
    }
}
