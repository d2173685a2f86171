//! What is known of the sending half of a connection.

use std::time::Duration;

use crate::units::Rate;

/// What a connection holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes that were written and have not left this side.
    pub bytes: u64,
    /// How many that can be before a write has to wait.
    pub room_bytes: u64,
}

/// Looks at the sending half of a connection. Costs a few system calls.
///
/// A connection that cannot tell says `None`; how data is packed is then decided by how long
/// writes have to wait.
pub trait Gauge: Send {
    /// What it holds now.
    fn look(&mut self) -> Option<Held> {
        None
    }

    /// For how long, since it was opened, it has had something to carry: bytes that the other side has
    /// not acknowledged.
    fn carried(&self) -> Option<Duration> {
        None
    }

    /// The most that may be sent over all connections of the link together.
    fn cap(&self) -> Option<Rate> {
        None
    }
}

/// The gauge of a connection that cannot tell anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGauge;

impl Gauge for NoGauge {}
