//! The policy trait: an [`Observation`] of the migration in, a [`Decision`] out.
//!
//! A [`Policy`] is a pure function of [`Observation`]s: it reads no clock and does no I/O, so that
//! a recorded migration can be replayed under another policy.

use std::time::Duration;

use super::{FixedCosts, GiveUp, Limits, LostWork, PageTime, ThrottleResponse, ThrottleShare};
use crate::units::{ByteCount, Instant, PageCount, Rate};

/// A round makes progress if it leaves at most this part of what the one before left.
pub(super) const PROGRESS: f64 = 0.85;

/// A round goes nowhere if it leaves more than this part of what another one left before.
pub(super) const STANDSTILL: f64 = 0.97;

/// Least part of the pages written in a round that is expected to go again.
const AGAIN_LEAST: f64 = 0.3;

/// What a policy knows at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// The moment.
    pub now: Instant,
    /// Time since the migration began.
    pub elapsed: Duration,
    /// The round that just ended, or is under way; from 1.
    pub round: u32,
    /// Whether a round has just ended: `left` is then the whole set to send, freshly harvested.
    pub round_ended: bool,
    /// Pages known to need sending.
    pub left: PageCount,
    /// Of the pages left, those that were held back in the round instead of being sent.
    pub held: PageCount,
    /// Of the pages held back, those that were written meanwhile and are among the harvested.
    pub held_written: PageCount,
    /// Bytes sent and not yet placed by the target.
    pub in_flight: ByteCount,
    /// Mean bytes on the wire of a page that is sent again, over the last rounds.
    pub bytes_per_page: f64,
    /// The same over all pages of the round that has just ended, or of the one before.
    pub round_page_bytes: f64,
    /// Time of a page that is sent again until it is acknowledged; `None`: the link's rate decides.
    pub page_time: Option<PageTime>,
    /// Rate at which the target places data; `None` before anything was placed.
    pub link: Option<Rate>,
    /// Rate at which the guest writes distinct pages, over the last round; `None` before the
    /// first harvest.
    pub dirty: Option<Rate>,
    /// The parts of a downtime beside its pages.
    pub fixed: FixedCosts,
    /// Distinct pages written between the last two harvests.
    pub harvested: PageCount,
    /// Time between the last two harvests.
    pub between_harvests: Duration,
    /// Throttle of the guest between the last two harvests.
    pub throttled: ThrottleShare,
    /// How the guest's work depends on its throttle.
    pub response: ThrottleResponse,
    /// Bytes placed by the target so far.
    pub placed: ByteCount,
}

impl Observation {
    /// The part of the pages written in a round, without those held back, that must go again. Some
    /// were written before their turn and went with their new content.
    pub fn again(&self) -> f64 {
        let written = self.harvested.0.saturating_sub(self.held_written.0);
        let again = self.left.0.saturating_sub(self.held.0);
        if written == 0 || !self.round_ended {
            return 1.0;
        }
        (again as f64 / written as f64).clamp(AGAIN_LEAST, 1.0)
    }

    /// What the guest lost of its work to its throttle between the last two harvests.
    pub fn lost(&self) -> LostWork {
        self.response.lost(self.throttled)
    }
}

/// What to do next with the guest.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Go on: with this round, or with another one, at the throttle as it is.
    Continue,
    /// Go on, with the guest throttled by this share from now on.
    Throttle(ThrottleShare),
    /// Stop the guest now and send what is left.
    Stop,
    /// Stop the guest now although the downtime is known to be longer than is allowed.
    Force,
    /// Give the migration up, for this reason: the guest stays on the source.
    GiveUp(GiveUp),
}

/// Decides what to do next, at the end of every round and several times within one.
///
/// Implementations are pure: the same observations give the same decisions.
pub trait Policy: Send + std::fmt::Debug {
    /// Decides on what was `seen`.
    fn decide(&mut self, seen: &Observation) -> Decision;

    /// Most pages to hold back in the round that begins, of those that are written again and again:
    /// they wait for the downtime. Called after [`decide`](Self::decide), with the same observation.
    fn hold_back(&self, _seen: &Observation) -> PageCount {
        PageCount(0)
    }

    /// The downtime allowed now, for display.
    fn downtime_limit(&self) -> Duration;

    /// The strongest throttle that it may put on a vCPU.
    fn throttle_most(&self) -> ThrottleShare {
        ThrottleShare::MOST
    }

    /// The user has changed the limits; they hold from the next decision on. The named policies
    /// ignore it, [`Limited`](super::Limited) does not.
    fn set_limits(&mut self, _limits: &Limits) {}
}
