//! Which way connections go, and how their packets are marked.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::endpoint::{Dscp, TcpAddress};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// What is asked of the way between this host and the other.
#[derive(Clone, Debug)]
pub(super) struct Path {
    bind: Option<Bind>,
    dscp: Option<Dscp>,
}

#[derive(Clone, Debug)]
enum Bind {
    /// Connections come from this address.
    Address(IpAddr),
    /// All goes by this interface (`SO_BINDTODEVICE`, socket(7)), which takes no privilege since Linux
    /// 5.7.
    Interface(String),
}

impl Path {
    /// What `address` asks for.
    ///
    /// # Errors
    /// When the interface is not there.
    pub(super) fn new(address: &TcpAddress) -> io::Result<Self> {
        let bind = address.bind.as_deref().map(|place| match place.parse() {
            Ok(address) => Ok(Bind::Address(address)),
            // The kernel would cut a long name short, and find another one.
            Err(_) if place.len() < 16 && has_interface(place) => {
                Ok(Bind::Interface(place.to_owned()))
            }
            Err(_) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("this host has no interface {place:?} (ip link shows them)"),
            )),
        });
        Ok(Self {
            bind: bind.transpose()?,
            dscp: address.dscp,
        })
    }

    /// A new socket for `address` that goes this way.
    pub(super) fn socket(&self, address: &SocketAddr) -> io::Result<Socket> {
        let domain = Domain::for_address(*address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if let Some(Bind::Interface(name)) = &self.bind {
            socket.bind_device(Some(name.as_bytes()))?;
        }
        if let Some(dscp) = self.dscp {
            if address.is_ipv6() {
                socket.set_tclass_v6(dscp.traffic_class())?;
            }
            if address.is_ipv4() || address.ip().is_unspecified() {
                // Also what comes to a socket of both families by IPv4.
                socket.set_tos_v4(dscp.traffic_class())?;
            }
        }
        Ok(socket)
    }

    /// Has connections to `address` come from the address of this host that was asked for.
    pub(super) fn bind_source(&self, socket: &Socket, address: &SocketAddr) -> io::Result<()> {
        let Some(Bind::Address(own)) = self.bind else {
            return Ok(());
        };
        if own.is_ipv4() != address.is_ipv4() {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("{own} is of another family"),
            ));
        }
        let mut from = SocketAddr::new(own, 0);
        if let (SocketAddr::V6(from), SocketAddr::V6(to)) = (&mut from, address) {
            from.set_scope_id(to.scope_id());
        }
        socket.bind(&from.into())
    }

    /// Listens at `address`.
    pub(super) fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.socket(&address)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }
}

/// Whether this host has an interface of this name.
fn has_interface(name: &str) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None);
    socket.is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, name).is_ok())
}
