//! Listeners and connections: bytes of clients become calls, and answers bytes.
//!
//! A thread accepts, one thread serves each connection, and each call that runs has a thread for as
//! long as it runs: so a client is answered "I am alive", and may ask after a migration, while the
//! call that migrates is still going on. What a client may hold on to has limits (`limits`).

mod calls;
mod connection;
mod keepalive;
mod limits;
mod listener;
mod outbox;
mod stream;
mod tls;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use tracing::{debug, info, warn};

pub(crate) use outbox::Outbox;
pub use tls::TlsError;

use crate::daemon::Daemon;
use connection::Connection;
use limits::Limiter;
use listener::{Accepted, Listener};
use stream::Wake;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A socket cannot be listened at.
    #[error("cannot listen at {place}: {source}")]
    Listen {
        /// The socket.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A thread or descriptor cannot be had.
    #[error("cannot serve: {0}")]
    System(#[from] io::Error),
}

/// A server that listens and answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<Wake>,
    places: Vec<String>,
    accepting: Option<std::thread::JoinHandle<()>>,
    open: Arc<Open>,
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Open {
    next: AtomicU64,
    outboxes: Mutex<Vec<(u64, Arc<Outbox>)>>,
}

impl Open {
    fn add(&self, outbox: &Arc<Outbox>) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut all = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((id, Arc::clone(outbox)));
        id
    }

    fn remove(&self, id: u64) {
        let mut all = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(other, _)| *other != id);
    }

    fn close_all(&self) {
        let all = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().for_each(|(_, outbox)| outbox.close());
    }
}

impl Server {
    /// Listens as the daemon's configuration says, and answers from the daemon.
    ///
    /// # Errors
    /// When a socket, a certificate or a thread cannot be had.
    pub fn start(daemon: Arc<Daemon>) -> Result<Self, ServerError> {
        let listeners = listener::all(daemon.config())?;
        let places = listeners.iter().map(Listener::place).collect();
        let stop = Arc::new(Wake::new()?);
        let open = Arc::new(Open::default());
        let accepting = std::thread::Builder::new().name("accept".into()).spawn({
            let (stop, open) = (Arc::clone(&stop), Arc::clone(&open));
            move || accept(&daemon, &listeners, &stop, &open)
        })?;
        Ok(Self {
            stop,
            places,
            accepting: Some(accepting),
            open,
        })
    }

    /// Where clients can connect: paths of sockets, and addresses with the ports that were got.
    pub fn places(&self) -> &[String] {
        &self.places
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.wake();
        if let Some(accepting) = self.accepting.take() {
            let _only_if_it_panicked = accepting.join();
        }
        self.open.close_all();
    }
}

fn accept(daemon: &Arc<Daemon>, listeners: &[Listener], stop: &Wake, open: &Arc<Open>) {
    let limiter = Arc::new(Limiter::new(daemon.config().limits.clone()));
    loop {
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        fds.extend(listeners.iter().map(|l| PollFd::new(l, PollFlags::IN)));
        if let Err(error) = poll(&mut fds, None)
            && error != rustix::io::Errno::INTR
        {
            warn!(%error, "cannot wait for clients");
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            return;
        }
        for (listener, _) in listeners
            .iter()
            .zip(&ready[1..])
            .filter(|(_, ready)| **ready)
        {
            match listener.accept() {
                Ok(Some(accepted)) => serve(daemon, accepted, &limiter, open),
                Ok(None) => {}
                Err(error) => {
                    // Out of descriptors, most likely: others may close theirs meanwhile.
                    warn!(%error, "cannot accept a client");
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            }
        }
    }
}

fn serve(daemon: &Arc<Daemon>, accepted: Accepted, limiter: &Arc<Limiter>, open: &Arc<Open>) {
    let Some(slot) = limiter.admit(accepted.read_only) else {
        warn!(peer = %accepted.peer, "too many clients: refused");
        return;
    };
    let outbox = match Outbox::new() {
        Ok(outbox) => Arc::new(outbox),
        Err(error) => {
            warn!(%error, "cannot serve a client");
            return;
        }
    };
    let id = open.add(&outbox);
    debug!(id, peer = %accepted.peer, read_only = accepted.read_only, "connected");
    let connection = Connection::new(id, daemon, accepted, outbox, slot);
    let spawned = std::thread::Builder::new()
        .name("connection".into())
        .spawn({
            let open = Arc::clone(open);
            move || {
                let why = connection.run();
                open.remove(id);
                info!(id, %why, "connection ended");
            }
        });
    if let Err(error) = spawned {
        warn!(%error, "cannot serve a client");
        open.remove(id);
    }
}
