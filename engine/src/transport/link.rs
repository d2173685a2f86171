//! Opening connections on the source, and accepting them on the target.

use std::io;
use std::time::Duration;

use super::{Connection, Role};
use crate::units::{ByteCount, Rate};

/// The source's way to its target.
pub trait Link: Send + Sync {
    /// Opens a connection for `role`. Waits until it is made or has failed.
    ///
    /// # Errors
    /// When the target cannot be reached, or the transport does not serve the role.
    fn connect(&self, role: Role) -> io::Result<Connection>;

    /// Most memory of this process that a data connection takes, beside a buffer for a frame.
    fn connection_bytes(&self) -> ByteCount {
        ByteCount(0)
    }
}

/// A [`Link`] whose rate can be capped while it is in use.
///
/// A migration takes no other: a user's bandwidth must not be ignored without a word. A decorator
/// that delays what is sent makes any link one of these.
pub trait RateCapped: Link {
    /// Caps the bytes per second that all connections of the link send together, from now on; `None`
    /// lifts the cap. Threads that wait for their turn under the old cap go on at once.
    fn set_rate(&self, cap: Option<Rate>);
}

/// Accepts connections on the target.
pub trait Listener: Send + Sync {
    /// The next connection, or `None` when none came within `timeout`.
    ///
    /// # Errors
    /// When listening itself failed.
    fn accept(&self, timeout: Duration) -> io::Result<Option<Connection>>;

    /// The address to give to the source: a URI, with the port that was chosen.
    fn address(&self) -> String;

    /// As [`Link::connection_bytes`].
    fn connection_bytes(&self) -> ByteCount {
        ByteCount(0)
    }
}

impl<L: Link + ?Sized> Link for Box<L> {
    fn connect(&self, role: Role) -> io::Result<Connection> {
        (**self).connect(role)
    }

    fn connection_bytes(&self) -> ByteCount {
        (**self).connection_bytes()
    }
}
