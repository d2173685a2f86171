//! TLS 1.3 with certificates, kept in files where libvirt keeps them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};

use crate::config::Tls;

/// Permissions that nobody needs on a key: all of others', and writing by the group.
const TOO_OPEN: u32 = 0o027;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct TlsError {
    path: PathBuf,
    why: String,
}

fn error(path: &Path, why: impl ToString) -> TlsError {
    TlsError {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

/// What clients get: this host's certificate; and what they must show: one of the authority's.
pub(super) fn config(tls: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.ca_certificate)? {
        let added = roots.add(certificate);
        added.map_err(|why| error(&tls.ca_certificate, why))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls(revoked(&tls.revoked)?)
        .build()
        .map_err(|why| error(&tls.ca_certificate, why))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|why| error(&tls.certificate, why))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&tls.certificate)?, key(&tls.key)?)
        .map_err(|why| error(&tls.certificate, why))?;
    // Each connection has a whole handshake of its own.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = fs::read(path).map_err(|why| error(path, why))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|why| error(path, why))?;
    if found.is_empty() {
        return Err(error(path, "there is no certificate in it"));
    }
    Ok(found)
}

fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    match fs::read(path) {
        Ok(text) => {
            let lists: Result<Vec<_>, _> =
                CertificateRevocationListDer::pem_slice_iter(&text).collect();
            let lists = lists.map_err(|why| error(path, why))?;
            if lists.is_empty() {
                return Err(error(path, "there is no revocation list in it"));
            }
            Ok(lists)
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(why) => Err(error(path, why)),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let mut file = File::open(path).map_err(|why| error(path, why))?;
    let meta = file.metadata().map_err(|why| error(path, why))?;
    let mode = meta.permissions().mode() & 0o7777;
    if mode & TOO_OPEN != 0 {
        let why = format!("its mode is {mode:04o}, so others may read or change it; chmod 600 it");
        return Err(error(path, why));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)
        .map_err(|why| error(path, why))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|why| error(path, why))
}
