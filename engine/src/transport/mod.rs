//! What a transport provides: connections that carry bytes in order.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::units::Rate;

/// One connection between source and target.
///
/// Reading may end with `WouldBlock` or `TimedOut` when nothing has arrived for a while (a
/// fraction of a second), so that a reader can look up; the frame reader goes on where it was.
pub struct Connection {
    /// Towards the other side.
    pub tx: Box<dyn Write + Send>,
    /// From the other side.
    pub rx: Box<dyn Read + Send>,
    /// Ends both directions at once.
    pub closer: Closer,
    /// What can be learnt of `tx`.
    pub gauge: Box<dyn Gauge>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

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

/// Ends a connection from any thread: blocked reads and writes on it return at once.
#[derive(Clone)]
pub struct Closer(Arc<dyn Fn() + Send + Sync>);

impl Closer {
    /// A closer that calls `close`, which may be called more than once.
    pub fn new(close: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(close))
    }

    /// Ends the connection.
    pub fn close(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closer")
    }
}

/// The source's way to its target.
pub trait Link: Send + Sync {
    /// Opens one more connection.
    ///
    /// # Errors
    /// When the target cannot be reached.
    fn dial(&self) -> io::Result<Connection>;

    /// Caps the rate of all connections together from now on; `None` lifts the cap. A link that
    /// has none to be set ignores it.
    fn set_rate(&self, _cap: Option<Rate>) {}
}

/// The target's ear.
pub trait Listener: Send + Sync {
    /// The next connection, or `None` when none came within `timeout`.
    ///
    /// # Errors
    /// When listening itself failed.
    fn accept(&self, timeout: Duration) -> io::Result<Option<Connection>>;
}
