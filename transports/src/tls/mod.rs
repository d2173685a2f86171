//! TLS 1.3 over any link: both sides authenticated, everything encrypted.
//!
//! [`TlsLink`] and [`TlsListener`] wrap another transport. The sides know each other by
//! [certificates](Certificates) of an authority, or by a [token](Token) that both have; then each makes
//! a certificate of its own for the life of its process, and proves over the finished handshake that
//! it has the token. Either way the certificate is the peer's identity: a second connection of the
//! same migration must come with the same one (`docs/decisions/065-tls.md`).
//!
//! A connection is established, on the target, by whoever reads it first, so that accepting waits for
//! nobody: the handshake and the `welcome` (proof of the token, and the target's word that it takes
//! the source in) come before the first byte of the engine's.
//!
//! | module | holds |
//! |---|---|
//! | `token`, `welcome` | the token, and how each side proves that it has it |
//! | `certificates`, `files`, `verify` | a directory of certificates, and what is checked of the peer's |
//! | `config` | what rustls is told; no TLS 1.2, no resumption, no early data |
//! | `session`, `send`, `receive` | a connection: its state, and its two halves |
//! | `keys` | the keys of one direction of an open connection: records, updates |
//! | `explain` | why a handshake failed, in words |

use std::path::PathBuf;

mod certificates;
mod config;
mod explain;
mod files;
mod keys;
mod link;
mod receive;
mod send;
mod session;
#[cfg(test)]
mod tests;
mod token;
mod verify;
mod welcome;

pub use certificates::{AllowedPeer, Certificates, CertificatesError};
pub(crate) use link::{TlsLink, TlsListener};
pub use token::{Token, TokenError};

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Source,
    Target,
}

/// What one end of all connections of a link or listener is like.
#[derive(Debug)]
struct Local {
    end: End,
    trust: Trust,
}

impl Local {
    /// The protocol inside TLS (ALPN, RFC 7301), which also says what the ends are known by: a token and
    /// certificates do not go together.
    fn protocol(&self) -> &'static [u8] {
        match self.trust {
            Trust::Token(_) => b"pagelift-token/1",
            Trust::Certificates { .. } => b"pagelift-certificates/1",
        }
    }
}

/// What the other end is known by.
#[derive(Debug)]
enum Trust {
    Token(Token),
    Certificates {
        /// Where the authority's certificate is, for people.
        dir: PathBuf,
    },
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Source => Self::Target,
            Self::Target => Self::Source,
        }
    }

    /// What users call it.
    fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}
