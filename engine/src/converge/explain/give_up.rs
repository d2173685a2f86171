//! The reasons for which a policy gives a migration up, with their numbers.

use std::time::Duration;

use super::Remedy;
use crate::converge::{Observation, ThrottleShare};
use crate::units::{ByteCount, Rate};

/// The error of a migration that a policy gave up.
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
    /// The set to send has stopped shrinking.
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
        /// Downtime that stopping now would cost, by its upper end, in milliseconds.
        forecast_ms: u128,
        /// Downtime that was allowed, in milliseconds.
        limit_ms: u128,
    },
    /// No throttle that is allowed makes it converge.
    #[error(
        "it does not converge even with the guest throttled to {throttle}: {left} are left to \
         send, the guest then writes {dirty} of distinct pages and the link carries {link}; \
         stopping it now would take up to {would_do_ms} ms where {limit_ms} ms are allowed"
    )]
    Hopeless {
        /// The largest share allowed.
        throttle: ThrottleShare,
        /// What is left.
        left: ByteCount,
        /// Rate of distinct pages written under that throttle.
        dirty: Rate,
        /// Rate at which the target places data.
        link: Rate,
        /// Downtime that was allowed, in milliseconds.
        limit_ms: u128,
        /// Downtime that stopping now would cost, by its upper end, in milliseconds.
        would_do_ms: u128,
    },
    /// The downtime would be too long with no page to send.
    #[error(
        "stopping the guest may take {fixed_ms} ms even with no page to send, {harvest_ms} ms of it to \
         find what was written last, where {limit_ms} ms are allowed"
    )]
    TooLong {
        /// Downtime with nothing to send, by its upper end, in milliseconds.
        fixed_ms: u128,
        /// The part of it that goes into the last harvest, in milliseconds.
        harvest_ms: u128,
        /// Downtime that was allowed, in milliseconds.
        limit_ms: u128,
    },
    /// The deadline has come.
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
    /// The deadline, `limit` after the beginning, has come.
    pub(in crate::converge) fn timed_out(seen: &Observation, limit: Duration) -> Self {
        Self::TimedOut {
            limit_s: limit.as_secs_f64(),
            left: seen.bytes_left(),
            dirty: seen.dirty.unwrap_or(Rate(0)),
            link: seen.link.unwrap_or(Rate(0)),
        }
    }

    /// The parts beside the pages are longer than `limit`.
    pub(in crate::converge) fn too_long(seen: &Observation, limit: Duration) -> Self {
        Self::TooLong {
            fixed_ms: seen.fixed.total().high().as_millis(),
            harvest_ms: seen.fixed.harvest.high().as_millis(),
            limit_ms: limit.as_millis(),
        }
    }
}
