//! Addresses of sockets within one machine.

use std::fmt;
use std::io;
use std::path::PathBuf;

use socket2::{Domain, SockAddr, Socket, Type};

/// The loopback of vsock(7): this machine, and nobody else.
const LOCAL_CID: u32 = 1;

/// Where a socket within one machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketAddress {
    /// A path.
    Unix(PathBuf),
    /// A machine (a context identifier, vsock(7)) and a port.
    Vsock { cid: u32, port: u32 },
}

impl SocketAddress {
    /// Whether no other machine reaches it.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Vsock { cid, .. } => *cid == LOCAL_CID,
        }
    }

    /// A socket of the address's kind, and the address as the kernel takes it.
    pub(super) fn socket(&self) -> io::Result<(Socket, SockAddr)> {
        let (domain, address) = match self {
            Self::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
            Self::Vsock { cid, port } => (Domain::VSOCK, SockAddr::vsock(*cid, *port)),
        };
        Ok((Socket::new(domain, Type::STREAM, None)?, address))
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock {
                cid: u32::MAX,
                port,
            } => write!(f, "vsock:any:{port}"),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
        }
    }
}
