//! Endpoints as users write them, `tcp://host:port`, and the transports behind them.
//!
//! A program that has an [`Endpoint`] need not know which transport it names.

use std::fmt;
use std::io;
use std::str::FromStr;

use pagelift_engine::transport::{Listener, RateCapped};

use crate::paced::Paced;
use crate::security::Security;
use crate::tcp::{TcpLink, TcpServer};
use crate::tls::{TlsLink, TlsListener};

/// The address of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `tcp://host:port`; an IPv6 address stands in brackets.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 0 lets a listener choose one.
        port: u16,
    },
}

/// Why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is no URI of a known kind.
    #[error("{0:?} is not an address; write tcp://HOST:PORT, for example tcp://127.0.0.1:7000")]
    Malformed(String),
    /// The kind of transport is not there.
    #[error("{scheme}:// is not supported by this version; use tcp://HOST:PORT")]
    Unsupported {
        /// The kind.
        scheme: String,
    },
}

impl Endpoint {
    /// A plain link to a target on this host, which [`Security::LocalOnly`] allows.
    ///
    /// # Errors
    /// As [`connect_with`](Self::connect_with).
    pub fn connect(&self) -> io::Result<Box<dyn RateCapped>> {
        self.connect_with(&Security::default())
    }

    /// A link to the target at this address. Names are looked up now, connections are made later.
    ///
    /// # Errors
    /// When the address leads nowhere, or beyond this host where `security` does not allow that, or the
    /// certificates cannot be used. The error names the reason and the way out.
    pub fn connect_with(&self, security: &Security) -> io::Result<Box<dyn RateCapped>> {
        let Self::Tcp { host, port } = self;
        let advice = "check the name, or write a numeric address";
        let link = TcpLink::resolve(host, *port).map_err(|error| self.failed(&error, advice))?;
        Ok(match security {
            Security::LocalOnly if !link.is_local() => return Err(self.beyond_this_host()),
            Security::LocalOnly | Security::Insecure => Box::new(Paced::new(link)),
            Security::Token(token) => Box::new(Paced::new(TlsLink::by_token(link, token)?)),
            Security::Certificates(certificates) => Box::new(Paced::new(TlsLink::by_certificates(
                link,
                host,
                certificates,
            )?)),
        })
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
        let Self::Tcp { host, port } = self;
        let listener = TcpServer::bind(host, *port)
            .map_err(|error| self.failed(&error, listen_advice(error.kind())))?;
        Ok(match security {
            Security::LocalOnly if !listener.is_local() => return Err(self.beyond_this_host()),
            Security::LocalOnly | Security::Insecure => Box::new(listener),
            Security::Token(token) => Box::new(TlsListener::by_token(listener, token)?),
            Security::Certificates(certificates) => {
                Box::new(TlsListener::by_certificates(listener, certificates)?)
            }
        })
    }

    /// Whether only this host can reach the address; `false` where that cannot be known.
    pub fn is_local(&self) -> bool {
        let Self::Tcp { host, port } = self;
        TcpLink::resolve(host, *port).is_ok_and(|link| link.is_local())
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

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || EndpointError::Malformed(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
        if scheme != "tcp" {
            return Err(EndpointError::Unsupported {
                scheme: scheme.to_owned(),
            });
        }
        let (host, port) = rest
            .trim_end_matches('/')
            .rsplit_once(':')
            .ok_or_else(malformed)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(address) => address,
            None if host.contains(':') => return Err(malformed()),
            None => host,
        };
        if host.contains(['[', ']', '/']) {
            return Err(malformed());
        }
        let port = port.parse().map_err(|_| malformed())?;
        if host.is_empty() {
            return Err(malformed());
        }
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pagelift_engine::transport::Role;

    use super::*;

    #[test]
    fn endpoints_read_back_as_written() {
        for text in [
            "tcp://127.0.0.1:7000",
            "tcp://[::1]:7000",
            "tcp://host.example:1",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_an_example() {
        for text in [
            "127.0.0.1:7000",
            "tcp://",
            "tcp://:1",
            "tcp://a",
            "tcp://a:b",
            "tcp://::1:2",
            "tcp://[[::1]]:2",
            "tcp://a/b:1",
        ] {
            assert_eq!(
                text.parse::<Endpoint>(),
                Err(EndpointError::Malformed(text.into()))
            );
        }
        let rdma = "rdma://host:1".parse::<Endpoint>();
        assert_eq!(
            rdma,
            Err(EndpointError::Unsupported {
                scheme: "rdma".into()
            })
        );
    }

    #[test]
    fn a_listener_names_an_address_that_can_be_connected_to() {
        let any: Endpoint = "tcp://127.0.0.1:0".parse().unwrap();
        let listener = any.listen().unwrap();
        let chosen: Endpoint = listener.address().parse().unwrap();
        assert_ne!(chosen, any);
        let link = chosen.connect().unwrap();
        let near = link.connect(Role::Control).unwrap();
        assert!(listener.accept(Duration::from_secs(10)).unwrap().is_some());
        drop(near);

        let error = chosen.listen().err().unwrap().to_string();
        for part in [&listener.address(), "in use", "another port"] {
            assert!(error.contains(part), "{error}");
        }
        let address = listener.address();
        drop(listener);
        let error = link.connect(Role::Data(0)).unwrap_err().to_string();
        let address = address.strip_prefix("tcp://").unwrap();
        for part in [address, "refused", "pagelift-receive"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_name_without_an_address_is_named() {
        // It does not exist by its very name (RFC 6761).
        let nobody: Endpoint = "tcp://host.invalid:1".parse().unwrap();
        let text = nobody.connect().err().unwrap().to_string();
        assert!(
            text.contains("tcp://host.invalid:1") && text.contains("check the name"),
            "{text}"
        );
    }
}
