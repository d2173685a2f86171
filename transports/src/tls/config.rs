//! Configuration of rustls: TLS 1.3 alone, both sides with a certificate, every connection with a whole
//! handshake of its own.
//!
//! Resumption and early data are off: both would let one handshake stand for several connections, and
//! early data can be replayed.

use std::io;
use std::sync::Arc;

use pagelift_engine::transport::{Link, Listener};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::certificates::Certificates;
use super::verify::AnyCertificate;
use super::{End, Local, TlsLink, TlsListener, Token, Trust};

/// Whom a certificate that a process has made for itself is for.
const EPHEMERAL_NAME: &str = "pagelift.invalid";

/// A certificate, those that lead from it to the authority, and its key.
pub(super) struct Own {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Own {
    /// A new key pair, which signs its own certificate and lives as long as this process.
    fn ephemeral() -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed([EPHEMERAL_NAME.to_owned()]);
        let made = made.map_err(io::Error::other)?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        Ok(Self {
            chain: vec![made.cert.der().clone()],
            key: key.into(),
        })
    }
}

/// The algorithms: see `docs/decisions/065-tls.md`.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The source's side, which shows `own` and has the target's certificate looked at by `verifier`.
pub(super) fn client(
    local: &Local,
    own: Own,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(own.chain, own.key)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![local.protocol().to_vec()];
    Ok(config)
}

/// The target's side, which shows `own` and has the source's certificate looked at by `verifier`.
pub(super) fn server(
    local: &Local,
    own: Own,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(own.chain, own.key)?;
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![local.protocol().to_vec()];
    Ok(config)
}

impl<L: Link> TlsLink<L> {
    /// Over `link`, to a target that has `token`.
    ///
    /// # Errors
    /// When no key can be made.
    pub(crate) fn by_token(link: L, token: &Token) -> io::Result<Self> {
        let local = Local {
            end: End::Source,
            trust: Trust::Token(token.clone()),
        };
        let config = client(&local, Own::ephemeral()?, Arc::new(AnyCertificate::new()));
        let name = ServerName::try_from(EPHEMERAL_NAME).map_err(io::Error::other)?;
        Ok(Self::with(
            link,
            local,
            config.map_err(io::Error::other)?,
            name,
        ))
    }

    /// Over `link`, to the target at `host`.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub(crate) fn by_certificates(
        link: L,
        host: &str,
        certificates: &Certificates,
    ) -> io::Result<Self> {
        let local = certificates.local(End::Source);
        let (own, verifier, name) = certificates.client(host).map_err(io::Error::other)?;
        let config = client(&local, own, verifier)
            .map_err(|error| certificates.unusable(End::Source, &error))?;
        Ok(Self::with(link, local, config, name))
    }
}

impl<L: Listener> TlsListener<L> {
    /// Over `listener`, for sources that have `token`.
    ///
    /// # Errors
    /// When no key can be made.
    pub(crate) fn by_token(listener: L, token: &Token) -> io::Result<Self> {
        let local = Local {
            end: End::Target,
            trust: Trust::Token(token.clone()),
        };
        let config = server(&local, Own::ephemeral()?, Arc::new(AnyCertificate::new()));
        Ok(Self::with(
            listener,
            local,
            config.map_err(io::Error::other)?,
        ))
    }

    /// Over `listener`, for sources with certificates that are taken.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub(crate) fn by_certificates(listener: L, certificates: &Certificates) -> io::Result<Self> {
        let local = certificates.local(End::Target);
        let (own, verifier) = certificates.server().map_err(io::Error::other)?;
        let config = server(&local, own, verifier)
            .map_err(|error| certificates.unusable(End::Target, &error))?;
        Ok(Self::with(listener, local, config))
    }
}
