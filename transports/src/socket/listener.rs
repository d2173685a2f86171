//! Accepting connections.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use pagelift_engine::transport::{Connection, Listener};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::Socket;

use super::{Owner, SocketAddress};
use crate::socket_file::listen_privately;

/// A listening socket. The file of a unix socket goes with it.
#[derive(Debug)]
pub(crate) struct SocketServer {
    socket: Socket,
    address: SocketAddress,
    owner: Owner,
}

impl SocketServer {
    /// Listens at `address` for connections of `owner`.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn bind(address: SocketAddress, owner: Owner) -> io::Result<Self> {
        let socket = match &address {
            SocketAddress::Unix(path) => {
                let listener = listen_privately(path).map_err(io::Error::other)?;
                Socket::from(OwnedFd::from(listener))
            }
            SocketAddress::Vsock { .. } => {
                let (socket, address) = address.socket()?;
                socket.bind(&address)?;
                socket.listen(128)?;
                socket
            }
        };
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address,
            owner,
        })
    }
}

impl Listener for SocketServer {
    fn accept(&self, timeout: Duration) -> io::Result<Option<Connection>> {
        let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match self.socket.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(false)?;
                // A peer that is gone already, or is not let in, is not the listener's failure.
                Ok(super::connection(socket, &self.address, self.owner).ok())
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
                _ => Err(error),
            },
        }
    }

    fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        if let SocketAddress::Unix(path) = &self.address {
            // Somebody may have removed it.
            let _ = std::fs::remove_file::<&PathBuf>(path);
        }
    }
}
