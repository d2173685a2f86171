//! Options for how the two sides of a move know each other.

use std::env::{self, VarError};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use pagelift_transports::{AllowedPeer, Certificates, Security, Token};

use crate::print;

/// The environment variable with a token: others see a command line, and not an environment.
const TOKEN: &str = "PAGELIFT_TOKEN";

/// Options that say how the other side is known.
#[derive(Args, Clone, Debug)]
pub struct SecurityOptions {
    /// Certificates for TLS, laid out as for libvirt and QEMU: ca-cert.pem; server-cert.pem and
    /// server-key.pem on the target; client-cert.pem and client-key.pem on the source; ca-crl.pem if
    /// any are revoked
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// Of those that the authority vouches for, let only this peer take part: sha256:FINGERPRINT of
    /// its certificate, or a host name that it is for. Can be given several times
    #[arg(long, value_name = "PEER", requires = "tls_dir")]
    pub tls_peer: Vec<AllowedPeer>,
    /// File with a token that both sides have (32 or more hexadecimal digits, as from
    /// `openssl rand -hex 16`), for TLS without certificates; the variable PAGELIFT_TOKEN may hold
    /// the token itself
    #[arg(long, value_name = "FILE", conflicts_with = "tls_dir")]
    pub token_file: Option<PathBuf>,
    /// Neither encrypt nor ask who is there, also beyond this host
    #[arg(long, conflicts_with_all = ["tls_dir", "token_file"])]
    pub insecure: bool,
}

impl SecurityOptions {
    /// What is chosen; the target's certificate is for `host_name`, if there is one.
    ///
    /// # Errors
    /// When the token cannot be read or is none.
    pub fn chosen(&self, host_name: Option<&str>) -> Result<Security> {
        if self.insecure {
            print::note(
                "warning: --insecure: whoever is on the network can read the guest's memory, and take \
                 the place of the other side",
            );
            return Ok(Security::Insecure);
        }
        if let Some(dir) = &self.tls_dir {
            let certificates = Certificates::new(dir).allowed(self.tls_peer.clone());
            return Ok(Security::Certificates(match host_name {
                Some(name) => certificates.host_name(name),
                None => certificates,
            }));
        }
        if let Some(path) = &self.token_file {
            return Ok(Security::Token(Token::from_file(path)?));
        }
        Ok(match env::var(TOKEN) {
            Ok(text) => Security::Token(text.trim().parse().context(TOKEN)?),
            Err(VarError::NotPresent) => Security::LocalOnly,
            Err(VarError::NotUnicode(_)) => bail!("{TOKEN} is not text"),
        })
    }

    /// The same, or if nothing was chosen and `is_wanted`, a token that is made now: the second answer.
    ///
    /// # Errors
    /// As [`chosen`](Self::chosen), and when the kernel gives no random numbers.
    pub fn chosen_or_new_token(&self, is_wanted: bool) -> Result<(Security, Option<Token>)> {
        match self.chosen(None)? {
            Security::LocalOnly if is_wanted => {
                let token = Token::generate()?;
                Ok((Security::Token(token.clone()), Some(token)))
            }
            chosen => Ok((chosen, None)),
        }
    }
}
