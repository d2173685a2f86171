//! Reading and writing the texts of endpoints.

use std::fmt;
use std::str::FromStr;

use super::{Endpoint, TcpAddress};

/// Why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is no address of a known kind.
    #[error("{0:?} is not an address; write tcp://HOST:PORT, for example tcp://127.0.0.1:7000")]
    Malformed(String),
    /// It is an address of a known kind, and something in it is wrong.
    #[error("{text:?} is not an address: {why}")]
    Wrong {
        /// The text.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The kind of transport is not there.
    #[error(
        "{scheme}:// is not supported by this version; use tcp://HOST:PORT, rdma://HOST:PORT, unix:PATH, \
         vsock:CID:PORT, fd:N, exec:COMMAND or stdio:"
    )]
    Unsupported {
        /// The kind.
        scheme: String,
    },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why| EndpointError::Wrong {
            text: text.to_owned(),
            why,
        };
        let malformed = || EndpointError::Malformed(text.to_owned());
        let (scheme, rest) = text.split_once(':').ok_or_else(malformed)?;
        let plain = rest.strip_prefix("//").unwrap_or(rest);
        match (scheme, plain) {
            ("tcp", _) if rest.starts_with("//") => tcp(text, plain).map(Self::Tcp),
            ("rdma", _) if rest.starts_with("//") => rdma(text, plain),
            ("unix", "") => Err(wrong("write unix:PATH")),
            // A path may begin with two slashes; what is behind those of a URI is absolute.
            ("unix", path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            ("unix", _) => Ok(Self::Unix(rest.into())),
            ("vsock", place) => {
                let why = "write vsock:CID:PORT, as in vsock:2:7000, or vsock:any:PORT to listen";
                let (cid, port) = place.split_once(':').ok_or_else(|| wrong(why))?;
                let cid = match cid {
                    "any" => Ok(u32::MAX),
                    number => number.parse(),
                };
                match (cid, port.parse()) {
                    (Ok(cid), Ok(port)) => Ok(Self::Vsock { cid, port }),
                    _ => Err(wrong(why)),
                }
            }
            ("fd", number) => match number.parse() {
                Ok(fd) if fd >= 0 => Ok(Self::Fd(fd)),
                _ => Err(wrong("write fd:N, with the number of a descriptor")),
            },
            ("exec", "") => Err(wrong("write exec:COMMAND")),
            ("exec", _) => Ok(Self::Exec(rest.to_owned())),
            ("stdio", "") => Ok(Self::Stdio),
            (scheme, _) if rest.starts_with("//") && scheme != "stdio" => {
                Err(EndpointError::Unsupported {
                    scheme: scheme.to_owned(),
                })
            }
            _ => Err(malformed()),
        }
    }
}

/// `rest` is what follows `rdma://` in `text`: an address of TCP with an option more.
fn rdma(text: &str, rest: &str) -> Result<Endpoint, EndpointError> {
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let is_own = |option: &&str| *option == "pin-all";
    let pin_all = options.split('&').any(|option| is_own(&option));
    let others: Vec<&str> = options
        .split('&')
        .filter(|option| !is_own(option))
        .collect();
    let tcp = tcp(text, &format!("{place}?{}", others.join("&")))?;
    Ok(Endpoint::Rdma { tcp, pin_all })
}

/// `rest` is what follows `tcp://` in `text`.
fn tcp(text: &str, rest: &str) -> Result<TcpAddress, EndpointError> {
    let malformed = || EndpointError::Malformed(text.to_owned());
    let wrong = |why| EndpointError::Wrong {
        text: text.to_owned(),
        why,
    };
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, port) = place
        .trim_end_matches('/')
        .rsplit_once(':')
        .ok_or_else(malformed)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        // In a URI the interface is behind %25 (RFC 6874), and people write it as elsewhere.
        Some(address) => address.replacen("%25", "%", 1),
        None if host.contains(':') => return Err(malformed()),
        None => host.to_owned(),
    };
    if host.is_empty() || host.contains(['[', ']', '/']) || host.contains("%25") {
        return Err(malformed());
    }
    let mut address = TcpAddress::new(host, port.parse().map_err(|_| malformed())?);
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("bind", place)) if !place.is_empty() && !place.contains(['?', '=']) => {
                address.bind = Some(place.to_owned());
            }
            Some(("dscp", class)) => {
                let why = "dscp is a number from 0 to 63, cs0 to cs7, af11 to af43, ef, le or be";
                address.dscp = Some(class.parse().map_err(|()| wrong(why))?);
            }
            _ => return Err(wrong("what may follow is bind=WHERE and dscp=CLASS")),
        }
    }
    Ok(address)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Rdma { tcp, pin_all } => {
                let address = tcp.to_string();
                let rest = address.strip_prefix("tcp").unwrap_or(&address);
                let mark = if rest.contains('?') { '&' } else { '?' };
                match pin_all {
                    true => write!(f, "rdma{rest}{mark}pin-all"),
                    false => write!(f, "rdma{rest}"),
                }
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock {
                cid: u32::MAX,
                port,
            } => write!(f, "vsock:any:{port}"),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Fd(fd) => write!(f, "fd:{fd}"),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::Stdio => f.write_str("stdio:"),
        }
    }
}
