//! TLS over any [`Link`] and any [`Listener`].

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pagelift_engine::transport::{Closer, Connection, Link, Listener, Peer, Role};
use pagelift_engine::units::ByteCount;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, KeyLog, ServerConfig, ServerConnection};

use super::Local;
use super::keys::TrafficSecrets;
use super::receive::TlsReader;
use super::send::TlsHalf;
use super::session::Session;

/// How long the two sides may take to authenticate each other, from the source's side.
const ESTABLISH: Duration = Duration::from_secs(10);

/// The source's way to its target, by TLS over `L`.
pub(crate) struct TlsLink<L> {
    link: L,
    local: Arc<Local>,
    config: Arc<ClientConfig>,
    /// Whom the target's certificate must be for.
    name: ServerName<'static>,
}

impl<L> fmt::Debug for TlsLink<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLink")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl<L: Link> TlsLink<L> {
    pub(super) fn with(
        link: L,
        local: Local,
        config: ClientConfig,
        name: ServerName<'static>,
    ) -> Self {
        Self {
            link,
            local: Arc::new(local),
            config: Arc::new(config),
            name,
        }
    }
}

impl<L: Link> TlsLink<L> {
    /// A connection of the link below with TLS around it, and by when it must be established. How long
    /// the link may take is its own affair: somebody may have to type a password.
    pub(super) fn begun(&self, role: Role, patience: Duration) -> io::Result<(Wrapped, Instant)> {
        let plain = self.link.connect(role)?;
        let deadline = Instant::now() + patience;
        let secrets = Arc::new(TrafficSecrets::default());
        let mut config = ClientConfig::clone(&self.config);
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        let tls =
            ClientConnection::new(Arc::new(config), self.name.clone()).map_err(io::Error::other)?;
        Ok((
            Wrapped::new(&self.local, plain, tls.into(), secrets),
            deadline,
        ))
    }

    /// A connection on which both sides are authenticated, within `patience` once there is one.
    pub(super) fn established(&self, role: Role, patience: Duration) -> io::Result<Wrapped> {
        let (mut wrapped, deadline) = self.begun(role, patience)?;
        loop {
            match wrapped.rx.establish(Some(deadline)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    wrapped.closer.close();
                    return Err(error);
                }
                Ok(()) => return Ok(wrapped),
            }
        }
    }
}

impl<L: Link> Link for TlsLink<L> {
    /// Waits until both sides are authenticated.
    fn connect(&self, role: Role) -> io::Result<Connection> {
        self.established(role, ESTABLISH).map(Into::into)
    }

    fn connection_bytes(&self) -> ByteCount {
        self.link.connection_bytes()
    }
}

/// Accepts connections by TLS over `L`. Who reads one first establishes it.
pub(crate) struct TlsListener<L> {
    listener: L,
    local: Arc<Local>,
    config: Arc<ServerConfig>,
}

impl<L> fmt::Debug for TlsListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl<L: Listener> TlsListener<L> {
    pub(super) fn with(listener: L, local: Local, config: ServerConfig) -> Self {
        Self {
            listener,
            local: Arc::new(local),
            config: Arc::new(config),
        }
    }
}

impl<L: Listener> Listener for TlsListener<L> {
    fn accept(&self, timeout: Duration) -> io::Result<Option<Connection>> {
        let Some(plain) = self.listener.accept(timeout)? else {
            return Ok(None);
        };
        let secrets = Arc::new(TrafficSecrets::default());
        let mut config = ServerConfig::clone(&self.config);
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        let tls = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        Ok(Some(
            Wrapped::new(&self.local, plain, tls.into(), secrets).into(),
        ))
    }

    fn address(&self) -> String {
        self.listener.address()
    }

    fn connection_bytes(&self) -> ByteCount {
        self.listener.connection_bytes()
    }
}

/// A connection with TLS around it, which is not established yet.
pub(super) struct Wrapped {
    tx: TlsHalf,
    pub(super) rx: TlsReader,
    closer: Closer,
    peer: Peer,
}

impl Wrapped {
    fn new(
        local: &Arc<Local>,
        plain: Connection,
        tls: rustls::Connection,
        secrets: Arc<TrafficSecrets>,
    ) -> Self {
        let binding = Arc::new(OnceLock::new());
        let peer = plain.peer.authenticated_by(Arc::clone(&binding));
        let session = Arc::new(Session::new(
            Arc::clone(local),
            tls,
            secrets,
            plain.tx,
            binding,
        ));
        Self {
            tx: TlsHalf::new(Arc::clone(&session)),
            rx: TlsReader::new(session, plain.rx),
            closer: plain.closer,
            peer,
        }
    }
}

impl From<Wrapped> for Connection {
    fn from(wrapped: Wrapped) -> Self {
        Self {
            tx: Box::new(wrapped.tx),
            rx: Box::new(wrapped.rx),
            closer: wrapped.closer,
            peer: wrapped.peer,
            one_sided: None,
        }
    }
}
