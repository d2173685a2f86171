//! Opening TCP connections.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use pagelift_engine::transport::{Connection, Link, Role};

/// How long a connection attempt to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens TCP connections to a target.
#[derive(Debug)]
pub(crate) struct TcpLink {
    addresses: Vec<SocketAddr>,
}

impl TcpLink {
    /// Looks up `host`; connections are made later.
    ///
    /// # Errors
    /// When the name has no address.
    pub(crate) fn resolve(host: &str, port: u16) -> io::Result<Self> {
        let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(Self { addresses })
    }

    /// Whether every address is one of this host alone.
    pub(crate) fn is_local(&self) -> bool {
        self.addresses.iter().all(super::is_local)
    }
}

impl Link for TcpLink {
    /// Tries the addresses in turn. All roles are served alike.
    fn connect(&self, _: Role) -> io::Result<Connection> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, CONNECT_TIMEOUT) {
                Ok(stream) => return super::connection(stream, *address),
                Err(error) => {
                    let advice = advice(error.kind());
                    last = io::Error::new(error.kind(), format!("{address}: {error}; {advice}"));
                }
            }
        }
        Err(last)
    }
}

/// What to do about a target that cannot be reached.
fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused => "is pagelift-receive waiting there?",
        _ => "check the address, and whether a firewall on the way lets the port through",
    }
}
