//! The question that a policy answers, and its answers.
//!
//! A [`Policy`] is a pure function of [`Observation`]s: it reads no clock and does no I/O, so that
//! a recorded migration can be replayed under another policy.

use std::time::Duration;

use super::{FixedCosts, GiveUp, Limits, PageTime, ThrottleResponse, ThrottleShare};
use crate::units::{ByteCount, Instant, PageCount, Rate};

/// Less than this part of the pages written is never expected to go again.
const AGAIN_LEAST: f64 = 0.3;

/// What a policy may know at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// The moment.
    pub now: Instant,
    /// Time since the migration began.
    pub elapsed: Duration,
    /// The round that just ended, or is under way; from 1.
    pub round: u32,
    /// Whether a round just ended: `left` is then the whole set to send, freshly harvested.
    pub round_ended: bool,
    /// Pages known to need sending.
    pub left: PageCount,
    /// Pages among those left that were not sent in the round, but held back.
    pub held: PageCount,
    /// Those of the held ones that were written meanwhile, and are among the harvested.
    pub held_written: PageCount,
    /// Bytes sent and not yet placed by the target.
    pub in_flight: ByteCount,
    /// Mean bytes on the wire of a page that is sent again, of the last rounds.
    pub bytes_per_page: f64,
    /// The same of all pages of the round that just ended, or of the one before.
    pub round_page_bytes: f64,
    /// Time of a page that is sent again, until it is acknowledged; `None`: the link's rate
    /// decides.
    pub page_time: Option<PageTime>,
    /// Rate at which the target places data; `None` before anything was placed.
    pub link: Option<Rate>,
    /// Rate at which the guest writes distinct pages, over the last round; `None` before the
    /// first harvest.
    pub dirty: Option<Rate>,
    /// What a downtime costs beside its pages.
    pub fixed: FixedCosts,
    /// Distinct pages written between the last two harvests.
    pub harvested: PageCount,
    /// Time between the last two harvests.
    pub interval: Duration,
    /// Share of its time that the guest was kept from running meanwhile.
    pub throttled: ThrottleShare,
    /// What a throttle takes of its work.
    pub response: ThrottleResponse,
    /// Bytes placed by the target so far.
    pub placed: ByteCount,
}

impl Observation {
    /// The part of the pages written in a round, without those held back, that must go again: some
    /// were written before their turn, and went as they had become.
    pub fn again(&self) -> f64 {
        let written = self.harvested.0.saturating_sub(self.held_written.0);
        let again = self.left.0.saturating_sub(self.held.0);
        if written == 0 || !self.round_ended {
            return 1.0;
        }
        (again as f64 / written as f64).clamp(AGAIN_LEAST, 1.0)
    }

    /// The share of its work that the guest lost to its throttle between the last two harvests.
    pub fn lost(&self) -> ThrottleShare {
        self.response.lost(self.throttled)
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Another round, or go on with this one, at the throttle as it is.
    Continue,
    /// The same, with the guest kept from running for this share of its time from now on.
    Throttle(ThrottleShare),
    /// Stop the guest now and send what is left.
    Stop,
    /// The same, although it is known to take longer than is allowed.
    Force,
    /// The guest stays where it is, for this reason.
    GiveUp(GiveUp),
}

/// Decides, at the end of every round and now and then within one, what to do next.
///
/// Implementations are pure: the same observations give the same decisions.
pub trait Policy: Send + std::fmt::Debug {
    /// What to do, given what was seen.
    fn decide(&mut self, seen: &Observation) -> Decision;

    /// How many of the pages that are written again and again may wait for the downtime instead of
    /// being sent in the round that begins. Asked after [`decide`](Self::decide) was, about the
    /// same observation.
    fn hold_back(&self, _seen: &Observation) -> PageCount {
        PageCount(0)
    }

    /// The downtime that is allowed, for display.
    fn downtime_limit(&self) -> Duration;

    /// The largest share that it would throttle any vCPU by.
    fn throttle_most(&self) -> ThrottleShare {
        ThrottleShare::MOST
    }

    /// The user has changed the limits: they count from the next question on. A policy that
    /// cannot be steered ignores it.
    fn set_limits(&mut self, _limits: &Limits) {}
}
