//! What the policy is told and asked: whether to go on, and what each answer does.
//!
//! Everything it sees is in one [`Observation`]; it is asked at the end of every round and every
//! [`POLICY_TICK`] within one.

use std::time::Duration;

use super::{Source, State};
use crate::converge::{
    ConvergenceStatus, Decision, DowntimeForecast, GivenUp, Limits, Observation, Remedy,
    ThrottleResponse, ThrottleShare,
};
use crate::migration::error::MigrationError;
use crate::units::{ByteCount, Instant, PAGE_BYTES, PageCount};

/// How often the policy is asked within a round.
pub(super) const POLICY_TICK: Duration = Duration::from_millis(50);

/// Shortest time between two prospects: they are for people to read.
const PROSPECT_PAUSE: Duration = Duration::from_millis(200);

impl Source {
    /// The user has changed the limits. They count as long as the guest runs.
    pub fn set_limits(&mut self, now: Instant, limits: &Limits) {
        self.policy.set_limits(limits);
        // It is asked at once, not at the next tick.
        self.policy_due = now;
    }

    /// The link has another rate from now on: what pages took before says nothing any more.
    pub fn link_changed(&mut self) {
        self.estimates.pages.forget_times();
    }

    /// Between the last two harvests the throttle has had the effect of `share` for all vCPUs,
    /// which need not be what was asked for; `None`: it was. A throttle takes as much of the
    /// guest's work as `response` says.
    pub fn throttle_had(&mut self, share: Option<ThrottleShare>, response: ThrottleResponse) {
        self.throttle_had = share;
        self.response = response;
    }

    /// The largest share that the policy allows for any vCPU.
    pub fn throttle_most(&self) -> ThrottleShare {
        self.policy.throttle_most()
    }

    /// Takes the pages out of the coming round that the policy lets wait.
    pub(super) fn hold_back(&mut self, now: Instant) {
        let most = self.policy.hold_back(&self.observe(now, true));
        self.heat.hold_back(&mut self.pending, &mut self.held, most);
        self.held_pages = self.held.count().0;
        self.left -= self.held_pages;
    }

    pub(super) fn observe(&self, now: Instant, round_ended: bool) -> Observation {
        let in_flight = self
            .channels
            .iter()
            .map(|channel| channel.in_flight.bytes().0)
            .sum();
        // After a harvest the pages that were held back are among those left.
        let held_yet = if round_ended { 0 } else { self.held_pages };
        let (left, in_flight) = (PageCount(self.left + held_yet), ByteCount(in_flight));
        let link = self.estimates.link.rate();
        let pages = self.page_costs(now, in_flight);
        let trip = self.estimates.calibration.round_trip().likely();
        Observation {
            now,
            elapsed: now.since(self.times.began),
            round: self.round,
            round_ended,
            left,
            held: PageCount(self.held_pages),
            held_written: PageCount(self.held_written),
            in_flight,
            bytes_per_page: pages.bytes(left),
            round_page_bytes: self.under_way.page_bytes().unwrap_or(PAGE_BYTES as f64),
            page_time: pages.time(left, &self.estimates.link, trip),
            link,
            dirty: self.estimates.dirty(),
            fixed: self.estimates.calibration.costs(self.verify),
            harvested: self.estimates.last_harvest(),
            interval: self.estimates.last_interval(),
            throttled: self.throttled(),
            response: self.response,
            placed: self.placed_bytes,
        }
    }

    /// What the throttle came to over the last round.
    pub(super) fn throttled(&self) -> ThrottleShare {
        self.throttle_had.unwrap_or(self.throttle)
    }

    /// The blackout if the guest is stopped because of what was `seen`. Within a round it has
    /// written pages that nobody has harvested.
    fn forecast_at_stop(&self, now: Instant, seen: Observation) -> Option<DowntimeForecast> {
        let unseen = match seen.round_ended {
            true => 0,
            false => self.estimates.written_since_harvest(now).0,
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
        match self.policy.decide(&seen) {
            Decision::Continue => Ok(()),
            Decision::Throttle(share) => {
                self.throttle_asked = Some(share);
                Ok(())
            }
            decision @ (Decision::Stop | Decision::Force) => {
                self.forced = decision == Decision::Force;
                self.forecast = self.forecast_at_stop(now, seen);
                if round_ended {
                    self.state = State::Stopping;
                } else {
                    // The channels must say that the round is over: what they have not sent of
                    // it goes into the last one.
                    self.cut_short = true;
                }
                Ok(())
            }
            Decision::GiveUp(reason) => {
                let limit = self.policy.downtime_limit();
                let remedy = Remedy::of(&self.estimates.curve, &seen, limit);
                let given_up = Box::new(GivenUp { reason, remedy });
                Err(MigrationError::NotConverging(given_up))
            }
        }
    }

    /// Takes down where the migration stands, for people.
    pub(super) fn look_ahead(&mut self, now: Instant) {
        if self.convergence.is_some() && now < self.convergence_due {
            return;
        }
        self.convergence_due = now.after(PROSPECT_PAUSE);
        let seen = self.observe(now, true);
        let limit = self.policy.downtime_limit();
        let mut convergence = ConvergenceStatus::of(&self.estimates.curve, &seen, limit);
        convergence.throttle = self.throttle;
        convergence.delta_share = self.estimates.pages.delta_share();
        self.convergence = Some(convergence);
    }
}
