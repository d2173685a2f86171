//! Addresses of TCP.

use std::fmt;
use std::str::FromStr;

/// `tcp://HOST:PORT?bind=WHERE&dscp=CLASS`; the options may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpAddress {
    /// Name or address. A link-local IPv6 address has its interface behind it, `fe80::1%eth0`. Where a
    /// name has several addresses, they are tried in turn.
    pub host: String,
    /// Port; 0 lets a listener choose one.
    pub port: u16,
    /// Interface that all goes by, or the address of this host that connections come from.
    pub bind: Option<String>,
    /// Class of service that the packets are marked with.
    pub dscp: Option<Dscp>,
}

impl TcpAddress {
    /// Without options.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            bind: None,
            dscp: None,
        }
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        match host.contains(':') {
            true => write!(f, "tcp://[{host}]:{port}")?,
            false => write!(f, "tcp://{host}:{port}")?,
        }
        let bind = self.bind.as_ref().map(|bind| format!("bind={bind}"));
        let dscp = self.dscp.map(|dscp| format!("dscp={dscp}"));
        for (option, mark) in bind.into_iter().chain(dscp).zip("?&".chars()) {
            write!(f, "{mark}{option}")?;
        }
        Ok(())
    }
}

/// A differentiated services code point (RFC 2474): how networks that look at it treat a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dscp(u8);

/// Names of the classes (RFC 2474, 2597, 3246, 8622), beside those that can be computed.
const NAMES: [(&str, u8); 3] = [("le", 1), ("ef", 46), ("be", 0)];

impl Dscp {
    /// The byte of an IP header that has it (`IP_TOS`, `IPV6_TCLASS`).
    pub(crate) fn traffic_class(self) -> u32 {
        u32::from(self.0) << 2
    }
}

impl FromStr for Dscp {
    type Err = ();

    /// A number from 0 to 63, `cs0` to `cs7`, `af11` to `af43`, `ef`, `le` or `be`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.to_ascii_lowercase();
        if let Some((_, value)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(Self(*value));
        }
        let value = match *text.as_bytes() {
            [b'c', b's', class @ b'0'..=b'7'] => (class - b'0') << 3,
            [b'a', b'f', class @ b'1'..=b'4', drop @ b'1'..=b'3'] => {
                ((class - b'0') << 3) | ((drop - b'0') << 1)
            }
            _ => text.parse().map_err(|_| ())?,
        };
        match value {
            0..64 => Ok(Self(value)),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_the_code_points_of_the_standards() {
        for (text, value) in [
            ("0", 0),
            ("63", 63),
            ("CS1", 8),
            ("cs6", 48),
            ("af11", 10),
            ("AF41", 34),
            ("af43", 38),
            ("ef", 46),
            ("le", 1),
        ] {
            assert_eq!(text.parse(), Ok(Dscp(value)), "{text}");
        }
        for text in ["64", "-1", "", "cs8", "af14", "af51", "gold"] {
            assert_eq!(text.parse::<Dscp>(), Err(()), "{text}");
        }
        assert_eq!(Dscp(46).traffic_class(), 184);
    }
}
