//! What a connection is to the daemon: its rights, and what is to be undone when it ends.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pagelift_rpc::message::Message;

use crate::server::Outbox;

/// By which door a client came, and who it is as far as the kernel knows.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A socket on this host.
    Unix {
        /// The user.
        uid: u32,
        /// The process.
        pid: i32,
    },
    /// TCP: anybody.
    Tcp(std::net::SocketAddr),
    /// TLS: somebody with a certificate.
    Tls(std::net::SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, pid } => write!(f, "unix, user {uid}, process {pid}"),
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Tls(address) => write!(f, "tls {address}"),
        }
    }
}

/// What is to be done when a connection has ended.
type Closer = Box<dyn FnOnce() + Send>;

/// Names what was given to [`Session::on_close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloserId(u32);

/// A connection, from the daemon's side.
pub struct Session {
    id: u64,
    peer: Peer,
    opened: AtomicBool,
    read_only: AtomicBool,
    outbox: Arc<Outbox>,
    next_closer: AtomicU32,
    /// `None` once the connection has ended.
    closers: Mutex<Option<Vec<(CloserId, Closer)>>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, peer, .. } = self;
        f.debug_struct("Session")
            .field("id", id)
            .field("peer", peer)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(id: u64, peer: Peer, read_only: bool, outbox: Arc<Outbox>) -> Self {
        Self {
            id,
            peer,
            opened: AtomicBool::new(false),
            read_only: AtomicBool::new(read_only),
            outbox,
            next_closer: AtomicU32::new(0),
            closers: Mutex::new(Some(Vec::new())),
        }
    }

    /// The number of the connection, which no other gets while the daemon runs.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Who is at the other end.
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether the driver was opened.
    pub fn is_open(&self) -> bool {
        self.opened.load(Ordering::Acquire)
    }

    /// Opens the driver; `false` when that was done before.
    pub(crate) fn open(&self, read_only: bool) -> bool {
        if read_only {
            self.read_only.store(true, Ordering::Release);
        }
        !self.opened.swap(true, Ordering::AcqRel)
    }

    /// Whether the client may only look.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Sends an event; a client that is too slow for its events loses its connection.
    pub fn send_event(&self, message: &Message) {
        self.outbox.post(message);
    }

    /// `closer` is called once the connection has ended, whichever way; at once if it has already.
    pub fn on_close(&self, closer: impl FnOnce() + Send + 'static) -> CloserId {
        let id = CloserId(self.next_closer.fetch_add(1, Ordering::Relaxed));
        let mut closers = self.closers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(closers) = &mut *closers {
            closers.push((id, Box::new(closer)));
        } else {
            drop(closers);
            closer();
        }
        id
    }

    /// What was given to [`on_close`](Self::on_close) is not called any more.
    pub fn forget(&self, id: CloserId) {
        let mut closers = self.closers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(closers) = &mut *closers {
            closers.retain(|(other, _)| *other != id);
        }
    }

    /// The connection has ended.
    pub(crate) fn end(&self) {
        let mut closers = self.closers.lock().unwrap_or_else(PoisonError::into_inner);
        let all = closers.take();
        drop(closers);
        for (_, closer) in all.into_iter().flatten() {
            closer();
        }
    }
}
