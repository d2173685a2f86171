//! Failpoints: named points of a migration at which a test can stop the program.
//!
//! With the cargo feature `failpoints` and `PAGELIFT_FAILPOINT=NAME` in its environment, a program
//! sends itself SIGSTOP the first time that it reaches the point of that name, as if somebody had
//! pressed ctrl-Z at that very moment; SIGCONT lets it go on. Tests use this to see what happens
//! when a machine hangs, a process is killed or a link is cut just there. Only the program itself
//! is stopped: not the other side, nor QEMU, nor the connections.
//!
//! Without the feature, as in releases, a point costs nothing and the variable means nothing.
//!
//! A point is a call of [`reached`] where the work is done. The driver has those around a step of
//! the guest; [`progress`] derives those within the engine from its reports.

#[cfg(not(feature = "failpoints"))]
mod absent;
#[cfg(feature = "failpoints")]
mod armed;

#[cfg(not(feature = "failpoints"))]
pub use absent::{check_environment, checked, progress, reached};
#[cfg(feature = "failpoints")]
pub use armed::{check_environment, checked, progress, reached};

/// A point at which a program can be stopped, in the order in which a migration reaches them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// Sender: its first message is sent, and no round has begun.
    Connected,
    /// Sender: in the first round.
    FirstRound,
    /// Sender: in a later round, while the guest runs.
    LaterRound,
    /// Sender: the guest is throttled for the first time.
    Throttled,
    /// Sender: the guest is stopped; the pages it wrote last are not harvested.
    Stopped,
    /// Sender: the last pages are being sent.
    LastPages,
    /// Sender: the target has all pages; no device state was sent.
    Placed,
    /// Sender: device state is being sent.
    State,
    /// Receiver: the device state is loaded; the sender does not know yet.
    Loaded,
    /// Receiver: that the target is prepared is in its journal; the sender does not know yet.
    Prepared,
    /// Sender: the target is ready; the guest is still the source's.
    Ready,
    /// Sender: QEMU has completed its migration; nothing was promised.
    Committed,
    /// Sender: the source cannot run the guest any more, and its journal says so; the target does not know yet.
    GivenUp,
    /// Receiver: the guest is the target's, and does not run yet.
    Granted,
    /// Receiver: the guest runs; the sender does not know yet.
    Running,
}

/// The environment names a point that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PAGELIFT_FAILPOINT: there is no failpoint {0:?}; unset it")]
pub struct UnknownFailpoint(String);
