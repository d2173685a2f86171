//! Opening TCP connections.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pagelift_engine::transport::{Connection, Link, Role};

use super::path::Path;
use crate::endpoint::TcpAddress;

/// How long a connection attempt to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens TCP connections to a target.
#[derive(Debug)]
pub(crate) struct TcpLink {
    addresses: Vec<SocketAddr>,
    path: Path,
    /// The address that answered last: what does not answer costs its time once.
    first: AtomicUsize,
}

impl TcpLink {
    /// Looks up the host; connections are made later.
    ///
    /// # Errors
    /// When the name has no address, or this host is not as the options say.
    pub(crate) fn resolve(address: &TcpAddress) -> io::Result<Self> {
        let host = address.host.as_str();
        let addresses: Vec<_> = (host, address.port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(Self {
            addresses,
            path: Path::new(address)?,
            first: AtomicUsize::new(0),
        })
    }

    /// Whether every address is one of this host alone.
    pub(crate) fn is_local(&self) -> bool {
        self.addresses.iter().all(super::is_local)
    }

    fn connect_to(&self, address: SocketAddr) -> io::Result<Connection> {
        let socket = self.path.socket(&address)?;
        self.path.bind_source(&socket, &address)?;
        socket.connect_timeout(&address.into(), CONNECT_TIMEOUT)?;
        super::connection(socket.into(), address)
    }
}

impl Link for TcpLink {
    /// Tries the addresses in turn, beginning with the one that answered last. All roles are served
    /// alike.
    fn connect(&self, _: Role) -> io::Result<Connection> {
        let first = self.first.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        let mut kind = io::ErrorKind::AddrNotAvailable;
        for at in 0..self.addresses.len() {
            let at = (first + at) % self.addresses.len();
            let address = self.addresses[at];
            match self.connect_to(address) {
                Ok(connection) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => {
                    kind = error.kind();
                    failures.push(format!("{address}: {error}; {}", advice(kind)));
                }
            }
        }
        Err(io::Error::new(kind, failures.join(", and ")))
    }
}

/// What to do about a target that cannot be reached.
fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused => "is pagelift-receive waiting there?",
        _ => "check the address, and whether a firewall on the way lets the port through",
    }
}
