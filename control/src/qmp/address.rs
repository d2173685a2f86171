//! Where a QEMU's QMP socket is.

use std::fmt;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Where QEMU listens for QMP.
///
/// The text forms are `PATH` or `unix:PATH`, and `tcp:HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT`. Descriptors cannot be passed over it.
    Tcp(String),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.strip_prefix("tcp:") {
            Some(host_port) => Self::Tcp(host_port.to_owned()),
            None => Self::Unix(text.strip_prefix("unix:").unwrap_or(text).into()),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host_port) => write!(f, "tcp:{host_port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    /// A connected socket; reads and writes on it give up after `limit`.
    ///
    /// # Errors
    /// As the kernel's; `TimedOut` (`WouldBlock` for a unix socket whose queue of clients is
    /// full) when nobody takes the connection in time.
    pub(super) fn connect(&self, limit: Duration) -> std::io::Result<OwnedFd> {
        let socket = match self {
            Self::Tcp(host_port) => connect_tcp(host_port, limit)?,
            Self::Unix(path) => {
                let socket = rustix::net::socket_with(
                    AddressFamily::UNIX,
                    SocketType::STREAM,
                    SocketFlags::CLOEXEC,
                    None,
                )?;
                // Before connecting: the send timeout bounds connect() itself (unix(7) sockets
                // wait there while the listener's queue is full).
                set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
                loop {
                    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
                        Ok(()) => break,
                        Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                socket
            }
        };
        set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(limit))?;
        Ok(socket)
    }
}

fn connect_tcp(host_port: &str, limit: Duration) -> std::io::Result<OwnedFd> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in host_port.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream.into());
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        let parse = |text: &str| text.parse::<Address>().unwrap();
        assert_eq!(parse("/run/q.sock"), Address::Unix("/run/q.sock".into()));
        assert_eq!(
            parse("unix:/run/q.sock"),
            Address::Unix("/run/q.sock".into())
        );
        assert_eq!(
            parse("tcp:[::1]:4444"),
            Address::Tcp("[::1]:4444".to_owned())
        );
        assert_eq!(parse("tcp:localhost:1").to_string(), "tcp:localhost:1");
    }
}
