//! What a connection is for.

use std::fmt;

/// What a connection is for.
///
/// A transport may serve roles in different ways: page data by one-sided writes and control
/// messages by a stream, say. One that treats all alike ignores the role.
///
/// Post-copy will ask for single pages over a connection of its own, ahead of all others. That role
/// joins this list together with the code that opens it, and a transport may then refuse it with
/// [`ErrorKind::Unsupported`](std::io::ErrorKind::Unsupported).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Control messages and device state, both ways. The first connection of a migration; after a
    /// failure around the hand-over the source opens further ones.
    Control,
    /// Pages from source to target, on the channel of this number, from 0. Nothing comes back.
    Data(u16),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("control"),
            Self::Data(channel) => write!(f, "data channel {channel}"),
        }
    }
}
