//! Statistics of the sending half of a connection.

use std::time::Duration;

use crate::units::Rate;

/// What is known of the sending half of a connection. The default is nothing: how data is packed is
/// then decided by how long sending waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendStats {
    /// What waits to leave this side.
    pub queue: Option<SendQueue>,
    /// For how long, since it was opened, the connection has had bytes that the other side had not
    /// acknowledged.
    pub busy: Option<Duration>,
    /// The most that all connections of the link may send together.
    pub rate_cap: Option<Rate>,
}

/// The queue of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendQueue {
    /// Bytes that were sent to the connection and have not left this side.
    pub queued_bytes: u64,
    /// How many there can be before sending has to wait; at least 1.
    pub capacity_bytes: u64,
}

impl SendQueue {
    /// How full it is: from 0 to 1, and above where the capacity has shrunk.
    pub fn fill(&self) -> f64 {
        self.queued_bytes as f64 / self.capacity_bytes as f64
    }
}
