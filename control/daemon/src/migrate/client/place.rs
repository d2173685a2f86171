//! The place that a libvirt URI leads to, and a connection to it.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};

/// How long another host may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// libvirt's port.
const PORT: u16 = 16509;

/// What is at the other end of a URI.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(String, u16),
    Unix(String),
}

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) fn try_clone(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    pub(super) fn shut_down(&self) {
        let _gone = match self {
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(std::net::Shutdown::Both),
        };
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

pub(super) fn unreachable(detail: String) -> Error {
    Error::new(ErrorCode::SystemError, ErrorDomain::Rpc, detail)
}

pub(super) fn place(uri: &str) -> Result<Place, Error> {
    let invalid = |why: &str| {
        let detail = format!("{why}: {uri}");
        Error::new(ErrorCode::InvalidArgument, ErrorDomain::Qemu, detail)
    };
    let (scheme, rest) = uri
        .split_once("://")
        .ok_or_else(|| invalid("not a connection URI"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    match scheme {
        "qemu+unix" | "qemu" if authority.is_empty() => {
            let socket = query
                .split('&')
                .find_map(|part| part.strip_prefix("socket="));
            let socket =
                socket.ok_or_else(|| invalid("Attempt to migrate guest to the same host"))?;
            Ok(Place::Unix(socket.replace("%2F", "/").replace("%2f", "/")))
        }
        "qemu+tcp" if !authority.is_empty() => {
            let authority = authority.rsplit('@').next().unwrap_or_default();
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => {
                    (host, port.parse().map_err(|_| invalid("not a port"))?)
                }
                _ => (authority, PORT),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            if host.starts_with("localhost") && port == PORT {
                return Err(invalid("Attempt to migrate guest to the same host"));
            }
            Ok(Place::Tcp(host.to_owned(), port))
        }
        _ => Err(invalid("daemons are reached by qemu+tcp or qemu+unix")),
    }
}

pub(super) fn dial(place: &Place) -> Result<Stream, Error> {
    match place {
        Place::Unix(path) => UnixStream::connect(path)
            .map(Stream::Unix)
            .map_err(|error| unreachable(format!("Failed to connect socket to '{path}': {error}"))),
        Place::Tcp(host, port) => {
            let addresses = (host.as_str(), *port).to_socket_addrs().map_err(|error| {
                unreachable(format!(
                    "Unable to resolve address '{host}' service '{port}': {error}"
                ))
            })?;
            let mut why = "no address".to_owned();
            for address in addresses {
                match TcpStream::connect_timeout(&address, CONNECT_PATIENCE) {
                    Ok(stream) => return Ok(Stream::Tcp(stream)),
                    Err(error) => why = error.to_string(),
                }
            }
            Err(unreachable(format!(
                "unable to connect to server at '{host}:{port}': {why}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let tcp = |host: &str, port| Ok(Place::Tcp(host.to_owned(), port));
        assert_eq!(place("qemu+tcp://dst/system"), tcp("dst", 16509));
        assert_eq!(place("qemu+tcp://127.0.0.1:7/system"), tcp("127.0.0.1", 7));
        assert_eq!(place("qemu+tcp://[::1]:7/system"), tcp("::1", 7));
        let unix = Place::Unix("/run/a".into());
        assert_eq!(place("qemu+unix:///system?socket=/run/a"), Ok(unix));
        for local in [
            "qemu:///system",
            "qemu+tcp://localhost/system",
            "qemu+ssh://h/system",
            "x",
        ] {
            assert_eq!(
                place(local).unwrap_err().code,
                ErrorCode::InvalidArgument,
                "{local}"
            );
        }
    }
}
