//! Opening connections.

use std::io;
use std::time::Duration;

use pagelift_engine::transport::{Connection, Link, Role};

use super::{Owner, SocketAddress};

/// How long to wait for a listener whose queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens connections to a target.
#[derive(Debug)]
pub(crate) struct SocketLink {
    address: SocketAddress,
    owner: Owner,
}

impl SocketLink {
    /// To `address`, where a process of `owner` must answer.
    pub(crate) fn new(address: SocketAddress, owner: Owner) -> Self {
        Self { address, owner }
    }
}

impl Link for SocketLink {
    /// All roles are served alike.
    fn connect(&self, _: Role) -> io::Result<Connection> {
        let (socket, address) = self.address.socket()?;
        socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
        socket.connect(&address).map_err(|error| {
            let advice = advice(error.kind());
            io::Error::new(error.kind(), format!("{}: {error}; {advice}", self.address))
        })?;
        socket.set_write_timeout(None)?;
        super::connection(socket, &self.address, self.owner)
    }
}

/// What to do about a target that cannot be reached.
fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            "is pagelift-receive waiting there?"
        }
        io::ErrorKind::PermissionDenied => "the socket is of another user; run both as the same",
        _ => "check the address",
    }
}
