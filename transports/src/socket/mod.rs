//! Sockets within one machine: unix sockets, and vsock between a host and its virtual machines.
//!
//! Every connection of a migration is a connection of its own, as over TCP; nothing is known of what
//! waits in them. Reads time out after a fraction of a second, so that a reader can look up; writes
//! block: that is the back-pressure.
//!
//! A unix socket is for its owner: the file has mode 0600, and unless the two sides know each other in
//! another way, each looks who is at the other end (`SO_PEERCRED`, unix(7)): the same user, or root.
//! Nobody is known over vsock, whose port every program of the host and of each of its machines
//! reaches; only the loopback (CID 1) stays within this host.

mod address;
mod link;
mod listener;
mod stream;

pub(crate) use address::SocketAddress;
pub(crate) use link::SocketLink;
pub(crate) use listener::SocketServer;

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use pagelift_engine::transport::{Closer, Connection, Peer, WriteHalf};
use rustix::net::sockopt::socket_peercred;
use socket2::Socket;

use self::stream::Stream;

/// Longest wait in a read before it says that there is nothing.
const READ_TICK: Duration = Duration::from_millis(200);

/// Whom a connection is taken from, and made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The user of this process, and root.
    SameUser,
    /// Anybody; TLS finds out who it is, or nobody wants to know.
    Anybody,
}

impl Owner {
    /// Whether a process of user `theirs` is taken by one of user `ours`.
    fn takes(self, theirs: u32, ours: u32) -> bool {
        self == Self::Anybody || theirs == ours || theirs == 0
    }
}

/// Sets a connected socket up, and splits it.
///
/// # Errors
/// When the other end is not of `owner`.
fn connection(socket: Socket, address: &SocketAddress, owner: Owner) -> io::Result<Connection> {
    let mut name = address.to_string();
    if let SocketAddress::Unix(_) = address {
        let peer = socket_peercred(&socket)?;
        let (theirs, ours) = (peer.uid.as_raw(), rustix::process::geteuid().as_raw());
        if !owner.takes(theirs, ours) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "{address}: the process at the other end is of user {theirs}, and this one of \
                     {ours}; run both as the same user, or give both a token or --tls-dir"
                ),
            ));
        }
        name = format!("unix: process {}", peer.pid.as_raw_nonzero());
    }
    socket.set_read_timeout(Some(READ_TICK))?;
    let stream = Stream::new(socket);
    let closing = stream.clone();
    Ok(Connection {
        rx: Box::new(stream.clone()),
        tx: Box::new(WriteHalf::new(stream)),
        closer: Closer::new(move || {
            // It may be closed already.
            let _ = closing.socket().shutdown(Shutdown::Both);
        }),
        peer: Peer::unauthenticated(name),
        one_sided: None,
    })
}

#[cfg(test)]
mod tests;
