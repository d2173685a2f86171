//! Accepting TCP connections.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use pagelift_engine::transport::{Connection, Listener};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::path::Path;
use crate::endpoint::TcpAddress;

/// A listening TCP socket.
#[derive(Debug)]
pub(crate) struct TcpServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl TcpServer {
    /// Listens on the first address of the host that can be bound; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// When none can be bound.
    pub(crate) fn bind(address: &TcpAddress) -> io::Result<Self> {
        let path = Path::new(address)?;
        let mut last = io::Error::other("the name has no address");
        for at in (address.host.as_str(), address.port).to_socket_addrs()? {
            match path.listen(at) {
                Ok(listener) => {
                    return Ok(Self {
                        address: listener.local_addr()?,
                        listener,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whether it can be reached from this host alone.
    pub(crate) fn is_local(&self) -> bool {
        super::is_local(&self.address)
    }
}

impl Listener for TcpServer {
    fn accept(&self, timeout: Duration) -> io::Result<Option<Connection>> {
        let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match self.listener.accept() {
            Ok((stream, address)) => {
                stream.set_nonblocking(false)?;
                // A peer that is gone already is not the listener's failure.
                Ok(super::connection(stream, address).ok())
            }
            Err(error) if is_of_connection(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn address(&self) -> String {
        format!("tcp://{}", self.address)
    }
}

/// Whether accept(2) failed because of the connection that it was about, and not of the listener:
/// its peer has gone, or the network has said something of it meanwhile.
fn is_of_connection(error: &io::Error) -> bool {
    const OF_CONNECTION: [Errno; 11] = [
        Errno::AGAIN,
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PERM,
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
    ];
    Errno::from_io_error(error).is_some_and(|errno| OF_CONNECTION.contains(&errno))
}
