//! Endpoints as users write them, `tcp://host:port` and others, and the transports behind them.
//!
//! A program that has an [`Endpoint`] need not know which transport it names.
//!
//! | text | is |
//! |---|---|
//! | `tcp://HOST:PORT` | TCP; see [`TcpAddress`] for what may follow |
//! | `rdma://HOST:PORT` | TCP for control, and pages by RDMA; `?pin-all` may follow, beside TCP's |
//! | `unix:PATH` | a unix socket, for one user |
//! | `vsock:CID:PORT` | a socket between a host and its virtual machines |
//! | `fd:N` | a connected socket that this process was given |
//! | `exec:COMMAND` | what a command line for sh(1) reads and writes |
//! | `stdio:` | standard input and output |

mod parse;
mod tcp_address;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::Child;

use pagelift_engine::transport::{Link, Listener, RateCapped};

pub use parse::EndpointError;
pub use tcp_address::{Dscp, TcpAddress};

use crate::byte_stream::ByteStream;
use crate::mux::{MuxLink, MuxListener};
use crate::paced::Paced;
use crate::rdma::{RdmaLink, RdmaListener};
use crate::security::Security;
use crate::socket::{Owner, SocketAddress, SocketLink, SocketServer};
use crate::tcp::{TcpLink, TcpServer};
use crate::tls::{TlsLink, TlsListener};

/// The address of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// TCP.
    Tcp(TcpAddress),
    /// Control over TCP, and pages by RDMA.
    Rdma {
        /// The address, of an interface that has an RDMA device.
        tcp: TcpAddress,
        /// Whether the target pins all memory of the guest before the first page comes. It does so if
        /// either side asks for it.
        pin_all: bool,
    },
    /// A unix socket at this path. A listener makes it, for its own user.
    Unix(PathBuf),
    /// A socket between a host and its virtual machines, vsock(7).
    Vsock {
        /// The machine: 1 is this one, 2 the host, 2^32 - 1 any that the listener has.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// A connected socket that this process has open.
    Fd(RawFd),
    /// The standard input and output of a command line for sh(1).
    Exec(String),
    /// Standard input and output of this process, which prints to standard error from then on.
    Stdio,
}

/// A link over the standard input and output of `child`, both of which are pipes to this process, to a
/// target that listens at [`Endpoint::Stdio`] there. `name` is what people know it by. The child is
/// ended with the link.
///
/// # Errors
/// When they are no pipes.
pub fn link_through(
    child: Child,
    name: &str,
    security: &Security,
) -> io::Result<Box<dyn RateCapped>> {
    let bytes = ByteStream::of_child(child, name.to_owned())?;
    linked(MuxLink::over(bytes)?, name, security, Pages::InFrames)
}

/// How pages go over.
#[derive(Clone, Copy, Debug)]
enum Pages {
    InFrames,
    ByRdma { pin_all: bool },
}

impl Endpoint {
    /// A plain link to a target on this host, which [`Security::LocalOnly`] allows.
    ///
    /// # Errors
    /// As [`connect_with`](Self::connect_with).
    pub fn connect(&self) -> io::Result<Box<dyn RateCapped>> {
        self.connect_with(&Security::default())
    }

    /// A link to the target at this address. Names are looked up, commands started and descriptors taken
    /// now; connections are made later.
    ///
    /// # Errors
    /// When the address leads nowhere, or beyond this host where `security` does not allow that, or the
    /// certificates cannot be used. The error names the reason and the way out.
    pub fn connect_with(&self, security: &Security) -> io::Result<Box<dyn RateCapped>> {
        if let Some((address, pages)) = self.tcp() {
            let advice = "check the name, or write a numeric address";
            let link = TcpLink::resolve(address).map_err(|error| self.failed(&error, advice))?;
            if matches!(security, Security::LocalOnly) && !link.is_local() {
                return Err(self.beyond_this_host());
            }
            return linked(link, &address.host, security, pages);
        }
        let name = self.to_string();
        if let Some(address) = self.socket_address() {
            if matches!(security, Security::LocalOnly) && !address.is_local() {
                return Err(self.beyond_this_host());
            }
            let link = SocketLink::new(address, owner(security));
            return linked(link, &name, security, Pages::InFrames);
        }
        let link = MuxLink::over(self.byte_stream()?)?;
        linked(link, &name, security, Pages::InFrames)
    }

    /// Listens at this address of this host, in clear, which [`Security::LocalOnly`] allows.
    ///
    /// # Errors
    /// As [`listen_with`](Self::listen_with).
    pub fn listen(&self) -> io::Result<Box<dyn Listener>> {
        self.listen_with(&Security::default())
    }

    /// Listens at this address: on the first address that the name has and that can be bound.
    ///
    /// # Errors
    /// When none can be bound, or it can be reached from other hosts where `security` does not allow
    /// that, or the certificates cannot be used. The error names the reason and the way out.
    pub fn listen_with(&self, security: &Security) -> io::Result<Box<dyn Listener>> {
        let failed = |error: io::Error| self.failed(&error, listen_advice(error.kind()));
        if let Some((address, pages)) = self.tcp() {
            let listener = TcpServer::bind(address).map_err(failed)?;
            if matches!(security, Security::LocalOnly) && !listener.is_local() {
                return Err(self.beyond_this_host());
            }
            return listening(listener, security, pages);
        }
        if let Some(address) = self.socket_address() {
            if matches!(security, Security::LocalOnly) && !address.is_local() {
                return Err(self.beyond_this_host());
            }
            let listener = SocketServer::bind(address, owner(security));
            let listener = listener.map_err(|error| match self {
                Self::Unix(_) => io::Error::new(error.kind(), format!("{self}: {error}")),
                _ => failed(error),
            })?;
            return listening(listener, security, Pages::InFrames);
        }
        let listener = MuxListener::over(self.byte_stream()?)?;
        listening(listener, security, Pages::InFrames)
    }

    /// Whether only this host can reach the address, or whom it was given to; `false` where that cannot
    /// be known.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) | Self::Rdma { tcp: address, .. } => {
                TcpLink::resolve(address).is_ok_and(|link| link.is_local())
            }
            Self::Fd(_) | Self::Exec(_) | Self::Stdio => true,
            Self::Unix(_) | Self::Vsock { .. } => self
                .socket_address()
                .is_some_and(|address| address.is_local()),
        }
    }

    /// The same, with all memory of the guest pinned by the target before the first page comes; if it is
    /// one of RDMA.
    #[must_use]
    pub fn pinning_all(mut self) -> Self {
        if let Self::Rdma { pin_all, .. } = &mut self {
            *pin_all = true;
        }
        self
    }

    /// The address of TCP that connections are made to, and how pages go.
    fn tcp(&self) -> Option<(&TcpAddress, Pages)> {
        match self {
            Self::Tcp(address) => Some((address, Pages::InFrames)),
            Self::Rdma { tcp, pin_all } => Some((tcp, Pages::ByRdma { pin_all: *pin_all })),
            _ => None,
        }
    }

    fn socket_address(&self) -> Option<SocketAddress> {
        match self {
            Self::Unix(path) => Some(SocketAddress::Unix(path.clone())),
            &Self::Vsock { cid, port } => Some(SocketAddress::Vsock { cid, port }),
            _ => None,
        }
    }

    /// The one byte stream that this is.
    fn byte_stream(&self) -> io::Result<ByteStream> {
        let bytes = match self {
            Self::Fd(fd) => ByteStream::of_descriptor(*fd),
            Self::Exec(command) => ByteStream::of_command(command),
            Self::Stdio => ByteStream::of_stdio(),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        bytes.map_err(|error| io::Error::new(error.kind(), format!("{self}: {error}")))
    }

    fn beyond_this_host(&self) -> io::Error {
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{self} is beyond this host, and nothing says how the two sides know each other; give \
                 both a token (pagelift-receive prints one) or --tls-dir, or accept the risk with \
                 --insecure"
            ),
        )
    }

    fn failed(&self, error: &io::Error, advice: &str) -> io::Error {
        io::Error::new(error.kind(), format!("{self}: {error}; {advice}"))
    }
}

/// `link`, as `security` says, to a target whose certificate is for `host`.
fn linked<L: Link + 'static>(
    link: L,
    host: &str,
    security: &Security,
    pages: Pages,
) -> io::Result<Box<dyn RateCapped>> {
    match security {
        Security::LocalOnly | Security::Insecure => capped(link, pages),
        Security::Token(token) => capped(TlsLink::by_token(link, token)?, pages),
        Security::Certificates(certificates) => {
            capped(TlsLink::by_certificates(link, host, certificates)?, pages)
        }
    }
}

/// A link that is as secure as it must be.
fn capped<L: Link + 'static>(link: L, pages: Pages) -> io::Result<Box<dyn RateCapped>> {
    Ok(match pages {
        Pages::InFrames => Box::new(Paced::new(link)),
        Pages::ByRdma { pin_all } => Box::new(Paced::new(RdmaLink::new(link, pin_all)?)),
    })
}

/// `listener`, as `security` says.
fn listening<L: Listener + 'static>(
    listener: L,
    security: &Security,
    pages: Pages,
) -> io::Result<Box<dyn Listener>> {
    match security {
        Security::LocalOnly | Security::Insecure => boxed(listener, pages),
        Security::Token(token) => boxed(TlsListener::by_token(listener, token)?, pages),
        Security::Certificates(certificates) => {
            boxed(TlsListener::by_certificates(listener, certificates)?, pages)
        }
    }
}

/// A listener that is as secure as it must be.
fn boxed<L: Listener + 'static>(listener: L, pages: Pages) -> io::Result<Box<dyn Listener>> {
    Ok(match pages {
        Pages::InFrames => Box::new(listener),
        Pages::ByRdma { pin_all } => Box::new(RdmaListener::new(listener, pin_all)?),
    })
}

/// Whose process may be at the other end of a unix socket.
fn owner(security: &Security) -> Owner {
    match security {
        Security::LocalOnly => Owner::SameUser,
        _ => Owner::Anybody,
    }
}

/// What to do about an address that cannot be bound.
fn listen_advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => {
            "another program listens there (ss -ltnp shows which); choose another port, or port 0 for \
             any free one"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this host has the address; write one that it has (ip address), or 0.0.0.0 \
             for all"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 take CAP_NET_BIND_SERVICE",
        _ => "check the name, or write a numeric address",
    }
}
