//! When to stop the guest, and when to stop trying.
//!
//! A [`Policy`] is a pure function of [`Observation`]s: it reads no clock and does no I/O, so a
//! recorded run can be replayed through any policy. [`Estimates`] makes the observations out of
//! what the source machine sees; [`Forecast`] turns one into the length of the blackout that
//! would follow if the guest were stopped now, part by part, each as a [`Span`] that is meant to
//! hold the truth in nine of ten cases. [`Outlook`] looks further ahead; [`Prospect`] puts all
//! that into words, and [`Remedy`] says what would have worked. None of them depends on the policy.
//!
//! | policy | what it does |
//! |---|---|
//! | [`StopWhenFits`] | never throttles |
//! | [`Classic`] | auto-converge as QEMU's users know it |
//! | [`Predictive`] | throttles only when it must, as little as will do, and releases again |
//! | [`Steered`] | any of these, under [`Limits`] that may change, with a deadline |

mod attribution;
#[cfg(test)]
mod calm_tests;
mod classic;
mod costs;
mod curve;
mod estimate;
#[cfg(test)]
mod fluid;
mod forecast;
mod jitter;
mod limits;
mod outlook;
mod page_cost;
mod predictive;
mod ramp;
mod remedy;
mod replay;
mod response;
mod share;
mod span;
mod steered;
mod stop_when_fits;
mod trace;
mod words;

pub use attribution::{LOOK_INTERVAL, LookKind, VcpuLook, VcpuThrottle};
pub use classic::{Classic, ClassicConfig};
pub use costs::{FixedCosts, GuestCosts, Rehearsal};
pub use curve::DirtyCurve;
pub use estimate::{Estimates, LinkRate};
pub use forecast::{BlackoutForecast, Forecast, Observation};
pub use jitter::Jitter;
pub use limits::{AtDeadline, Downtime, Limits, PolicyKind};
pub use outlook::Outlook;
pub use page_cost::{PageCosts, PageTime, RoundSent};
pub use predictive::{Predictive, PredictiveConfig};
pub use remedy::Remedy;
pub use replay::{Ended, Model, Run, replay};
pub use response::Response;
pub use share::Share;
pub use span::{COVERAGE, Span};
pub use steered::Steered;
pub use stop_when_fits::{StopWhenFits, StopWhenFitsConfig};
pub use trace::{Record, Recorded, Trace, TraceError};
pub use words::Prospect;

use std::time::Duration;

use crate::units::{ByteCount, PageCount, Rate};

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Another round, or go on with this one, at the throttle as it is.
    Continue,
    /// The same, with the guest kept from running for this share of its time from now on.
    Throttle(Share),
    /// Stop the guest now and send what is left.
    Stop,
    /// The same, although it is known to take longer than is allowed.
    Force,
    /// The guest stays where it is, for this reason.
    GiveUp(GiveUp),
}

/// A migration was given up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct GivenUp {
    /// Why.
    pub reason: GiveUp,
    /// What would have worked.
    pub remedy: Remedy,
}

/// Why a migration was given up, with the numbers.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GiveUp {
    /// What is left to send has not become less for a while.
    #[error(
        "it does not converge: {left} are left to send after {rounds} rounds and no round of the \
         last {stalled_s:.0} s left less; the guest writes {dirty} of distinct pages and the link \
         carries {link}, so stopping it now would take up to {forecast_ms} ms where {limit_ms} ms \
         are allowed"
    )]
    Stalled {
        /// What is left.
        left: ByteCount,
        /// Rounds so far.
        rounds: u32,
        /// Seconds since a round left less than any before.
        stalled_s: f64,
        /// Rate of distinct pages written.
        dirty: Rate,
        /// Rate at which the target places data.
        link: Rate,
        /// Blackout that stopping now would cost, by its upper end, in milliseconds.
        forecast_ms: u128,
        /// Blackout that was allowed, in milliseconds.
        limit_ms: u128,
    },
    /// No throttle that is allowed would do.
    #[error(
        "it does not converge even with the guest throttled to {throttle}: {left} are left to \
         send, the guest then writes {dirty} of distinct pages and the link carries {link}; \
         stopping it now would take up to {would_do_ms} ms where {limit_ms} ms are allowed"
    )]
    Hopeless {
        /// The largest share allowed.
        throttle: Share,
        /// What is left.
        left: ByteCount,
        /// Rate of distinct pages written under that throttle.
        dirty: Rate,
        /// Rate at which the target places data.
        link: Rate,
        /// Blackout that was allowed, in milliseconds.
        limit_ms: u128,
        /// Blackout that stopping now would cost, by its upper end, in milliseconds.
        would_do_ms: u128,
    },
    /// Even with no page to send the blackout would be too long.
    #[error(
        "stopping the guest may take {fixed_ms} ms even with no page to send, where {limit_ms} ms \
         are allowed"
    )]
    TooLong {
        /// Blackout with nothing to send, by its upper end, in milliseconds.
        fixed_ms: u128,
        /// Blackout that was allowed, in milliseconds.
        limit_ms: u128,
    },
    /// The time allowed is over.
    #[error(
        "the time limit of {limit_s:.0} s is over with {left} left to send; the guest writes \
         {dirty} of distinct pages and the link carries {link}; more time may do"
    )]
    TimedOut {
        /// Time allowed, in seconds.
        limit_s: f64,
        /// What is left.
        left: ByteCount,
        /// Rate of distinct pages written.
        dirty: Rate,
        /// Rate at which the target places data.
        link: Rate,
    },
}

impl GiveUp {
    /// The `limit` of the time has come.
    fn timed_out(seen: &Observation, limit: Duration) -> Self {
        Self::TimedOut {
            limit_s: limit.as_secs_f64(),
            left: Forecast::of(seen).bytes,
            dirty: seen.dirty.unwrap_or(Rate(0)),
            link: seen.link.unwrap_or(Rate(0)),
        }
    }

    /// The costs beside the pages alone are above `limit`.
    fn too_long(seen: &Observation, limit: Duration) -> Self {
        Self::TooLong {
            fixed_ms: seen.fixed.total().high().as_millis(),
            limit_ms: limit.as_millis(),
        }
    }
}

/// Decides, at the end of every round and now and then within one, what to do next.
///
/// Implementations are pure: the same observations give the same decisions.
pub trait Policy: Send + std::fmt::Debug {
    /// What to do, given what was seen.
    fn decide(&mut self, seen: &Observation) -> Decision;

    /// How many of the pages that are written again and again may wait for the blackout instead of
    /// being sent in the round that begins. Asked after [`decide`](Self::decide) was, about the
    /// same observation.
    fn hold_back(&self, _seen: &Observation) -> PageCount {
        PageCount(0)
    }

    /// The blackout that is allowed, for display.
    fn downtime_limit(&self) -> Duration;

    /// The largest share that it would throttle any vCPU by.
    fn throttle_most(&self) -> Share {
        Share::MOST
    }

    /// The user has changed the limits: they count from the next question on. A policy that
    /// cannot be steered ignores it.
    fn set_limits(&mut self, _limits: &Limits) {}
}
