//! Endpoints as users write them: `tcp://host:port`.

use std::fmt;
use std::str::FromStr;

/// Where a target listens.
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
}
