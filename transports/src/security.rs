//! Ways in which the two sides of a migration know each other.

use crate::tls::{Certificates, Token};

/// How the two sides of a migration know each other. Both must choose the same.
#[derive(Clone, Debug, Default)]
pub enum Security {
    /// Not at all, and in clear: only between processes of one host, or through a tunnel that ends on
    /// it. An address that can be reached from elsewhere is refused.
    #[default]
    LocalOnly,
    /// Not at all, and in clear, anywhere: whoever reaches the target's port can feed it a guest, and
    /// whoever is on the path reads the guest's memory.
    Insecure,
    /// By a token that both have; TLS 1.3.
    Token(Token),
    /// By certificates; TLS 1.3.
    Certificates(Certificates),
}
