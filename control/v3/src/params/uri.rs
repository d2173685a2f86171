//! Where a guest's memory is sent.

use std::fmt;

use pagelift_rpc::error::{Error, ErrorCode};

use crate::flags::refused;

/// Where a guest's memory is sent: a TCP port of a host, or a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrateUri {
    /// A TCP port; without one the target chooses it.
    Tcp {
        /// A name or an address; one of IPv6 without brackets.
        host: String,
        /// The port.
        port: Option<u16>,
        /// Whether there are slashes, as newer libvirts write, or none.
        slashes: bool,
    },
    /// A unix socket, reachable from both QEMUs.
    Unix(String),
}

impl MigrateUri {
    /// Reads a URI: `tcp:HOST:PORT`, `tcp://HOST[:PORT]` or `unix:///PATH`.
    ///
    /// # Errors
    ///
    /// Code 74 for other schemes, code 8 for a host or port that is missing or impossible. libvirt
    /// cuts a port that is too large to 16 bits.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |what: &str| {
            let detail = format!("{what} in migration URI: {text}");
            refused(ErrorCode::InvalidArgument, detail)
        };
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| invalid("missing scheme"))?;
        match scheme {
            "tcp" => {}
            "unix" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                return match path.starts_with('/') {
                    true => Ok(Self::Unix(path.to_owned())),
                    false => Err(invalid("missing path")),
                };
            }
            _ => {
                let detail = format!("unsupported scheme {scheme} in migration URI {text}");
                return Err(refused(ErrorCode::ArgumentUnsupported, detail));
            }
        }
        let (authority, slashes) = match rest.strip_prefix("//") {
            Some(authority) => (authority.strip_suffix('/').unwrap_or(authority), true),
            None => (rest, false),
        };
        let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (
                host,
                Some(
                    port.strip_prefix(':')
                        .ok_or_else(|| invalid("misplaced ']'"))?,
                ),
            ),
            None => match authority.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => (authority, None),
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() {
            return Err(invalid("missing host"));
        }
        let odd =
            |c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | '?' | '#' | ',');
        if host.contains(odd) {
            return Err(invalid("malformed host"));
        }
        let port = match port {
            None | Some("") => None,
            Some(port) => {
                let number = port.parse().ok().filter(|n| *n != 0);
                Some(number.ok_or_else(|| invalid("port out of range 1 to 65535"))?)
            }
        };
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
            slashes,
        })
    }

    /// The same place with a port that the target chose.
    #[must_use]
    pub fn with_port(&self, chosen: u16) -> Self {
        match self {
            Self::Tcp { host, slashes, .. } => Self::Tcp {
                host: host.clone(),
                port: Some(chosen),
                slashes: *slashes,
            },
            Self::Unix(_) => self.clone(),
        }
    }
}

impl fmt::Display for MigrateUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp {
                host,
                port,
                slashes,
            } => {
                f.write_str(if *slashes { "tcp://" } else { "tcp:" })?;
                match host.contains(':') {
                    true => write!(f, "[{host}]")?,
                    false => f.write_str(host)?,
                }
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: Option<u16>, slashes: bool) -> MigrateUri {
        MigrateUri::Tcp {
            host: host.into(),
            port,
            slashes,
        }
    }

    #[test]
    fn uris_are_read_and_written() {
        for (text, uri) in [
            ("tcp:dst:49152", tcp("dst", Some(49152), false)),
            ("tcp://10.77.0.2", tcp("10.77.0.2", None, true)),
            ("tcp://dst:50000", tcp("dst", Some(50000), true)),
            ("tcp:[::1]:7", tcp("::1", Some(7), false)),
            ("unix:///run/m.sock", MigrateUri::Unix("/run/m.sock".into())),
        ] {
            assert_eq!(MigrateUri::parse(text).as_ref(), Ok(&uri), "{text}");
            assert_eq!(uri.to_string(), text);
        }
        assert_eq!(MigrateUri::parse("tcp:::1"), Ok(tcp("::1", None, false)));
        let chosen = MigrateUri::parse("tcp://10.77.0.2")
            .unwrap()
            .with_port(49152);
        assert_eq!(chosen.to_string(), "tcp://10.77.0.2:49152");
    }

    #[test]
    fn impossible_uris_are_refused_with_libvirts_codes() {
        for (text, code, words) in [
            (
                "http://dst:1000",
                74,
                "unsupported scheme http in migration URI http://dst:1000",
            ),
            ("tcp:", 8, "missing host in migration URI: tcp:"),
            ("tcp://:1", 8, "missing host in migration URI: tcp://:1"),
            ("dst", 8, "missing scheme in migration URI: dst"),
            ("unix:run", 8, "missing path in migration URI: unix:run"),
            ("tcp://h/p", 8, "malformed host in migration URI: tcp://h/p"),
        ] {
            let error = MigrateUri::parse(text).unwrap_err();
            assert_eq!(
                (error.code.number(), error.domain.number()),
                (code, 10),
                "{text}"
            );
            assert!(error.message().ends_with(words), "{}", error.message());
        }
    }

    /// A libvirtd 11.3 takes 99999 and connects to another port.
    #[test]
    fn ports_out_of_range_are_refused() {
        for port in ["99999", "65536", "0", "-1", "x", "+1x"] {
            let error = MigrateUri::parse(&format!("tcp:127.0.0.1:{port}")).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument, "{port}");
        }
    }
}
