//! When to stop the guest, and when to stop trying.
//!
//! A [`Policy`] is a pure function of [`Observation`]s: it reads no clock and does no I/O, so a
//! recorded run can be replayed through any policy. [`Estimates`] makes the observations out of
//! what the source machine sees; [`Forecast`] turns one into the length of the blackout that
//! would follow if the guest were stopped now.
//!
//! | policy | what it does |
//! |---|---|
//! | [`StopWhenFits`] | never throttles |
//! | [`Classic`] | auto-converge as QEMU's users know it |
//! | [`Predictive`] | throttles only when it must, as little as will do, and releases again |

mod attribution;
#[cfg(test)]
mod calm_tests;
mod classic;
mod curve;
mod estimate;
#[cfg(test)]
mod fluid;
mod forecast;
mod predictive;
mod replay;
mod share;
mod stop_when_fits;
mod trace;

pub use attribution::{LOOK_INTERVAL, VcpuLook, VcpuThrottle};
pub use classic::{Classic, ClassicConfig};
pub use curve::DirtyCurve;
pub use estimate::{Estimates, LinkRate};
pub use forecast::{Forecast, Observation};
pub use predictive::{Outlook, Predictive, PredictiveConfig};
pub use replay::{Ended, Model, Run, replay};
pub use share::Share;
pub use stop_when_fits::{StopWhenFits, StopWhenFitsConfig};
pub use trace::{Record, Recorded, Trace, TraceError};

use std::time::Duration;

use crate::units::{ByteCount, Rate};

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Another round, or go on with this one, at the throttle as it is.
    Continue,
    /// The same, with the guest kept from running for this share of its time from now on.
    Throttle(Share),
    /// Stop the guest now and send what is left.
    Stop,
    /// The guest stays where it is, for this reason.
    GiveUp(GiveUp),
}

/// Why a migration was given up, with the numbers that say what would have worked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GiveUp {
    /// What is left to send has not become less for a while.
    #[error(
        "it does not converge: {left} are left to send after {rounds} rounds and no round of the \
         last {stalled_s:.0} s left less; the guest writes {dirty} of distinct pages and the link \
         carries {link}, so stopping it now would take about {forecast_ms} ms where {limit_ms} ms \
         are allowed; allow a longer downtime, a higher bandwidth, or calm the guest"
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
        /// Blackout that stopping now would cost, in milliseconds.
        forecast_ms: u128,
        /// Blackout that was allowed, in milliseconds.
        limit_ms: u128,
    },
    /// No throttle that is allowed would do.
    #[error(
        "it does not converge even with the guest throttled to {throttle}: {left} are left to          send, the guest then writes {dirty} of distinct pages and the link carries {link}; it          could be stopped now for {would_do_ms} ms where {limit_ms} ms are allowed; allow a \
         longer downtime, a higher bandwidth, or a stronger throttle"
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
        /// Blackout that stopping now would cost, in milliseconds.
        would_do_ms: u128,
    },
    /// The time allowed is over.
    #[error(
        "the time limit of {limit_s:.0} s is over with {left} left to send; the guest writes \
         {dirty} of distinct pages and the link carries {link}; allow more time, a longer \
         downtime or a higher bandwidth"
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

/// Decides, at the end of every round and now and then within one, what to do next.
///
/// Implementations are pure: the same observations give the same decisions.
pub trait Policy: Send + std::fmt::Debug {
    /// What to do, given what was seen.
    fn decide(&mut self, seen: &Observation) -> Decision;

    /// The blackout that is allowed, for display.
    fn downtime_limit(&self) -> Duration;

    /// The largest share that it would throttle any vCPU by.
    fn throttle_most(&self) -> Share {
        Share::MOST
    }
}
