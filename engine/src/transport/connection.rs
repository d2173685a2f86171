//! A connection, and how any thread ends it.

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use super::{Expose, Peer, SendHalf};

/// One connection between source and target.
///
/// Reading may end with `WouldBlock` or `TimedOut` when nothing has arrived for a while (a
/// fraction of a second), so that a reader can look up; the frame reader goes on where it was.
pub struct Connection {
    /// Towards the other side.
    pub tx: Box<dyn SendHalf>,
    /// From the other side.
    pub rx: Box<dyn Read + Send>,
    /// Ends both directions at once.
    pub closer: Closer,
    /// Who is at the other end.
    pub peer: Peer,
    /// On the target: lets the source write memory by this connection. `None` where the transport only
    /// carries bytes.
    pub one_sided: Option<Box<dyn Expose>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

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
