//! Certificates of an authority, in a directory laid out as libvirt and QEMU have it.
//!
//! | file | is |
//! |---|---|
//! | `ca-cert.pem` | certificates of the authorities that both sides trust |
//! | `server-cert.pem`, `server-key.pem` | the target's, for its host name or address |
//! | `client-cert.pem`, `client-key.pem` | the source's |
//! | `ca-crl.pem` | certificates that were revoked; if it is there, all are looked up |

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, pem,
};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::config::{Own, provider};
use super::files::{self, SecretFileError};
use super::verify::Listed;
use super::{End, Local, Trust};

/// A directory with certificates, and what is asked of the other side's beyond the authority's word.
#[derive(Clone, Debug)]
pub struct Certificates {
    dir: PathBuf,
    host_name: Option<String>,
    allowed: Vec<AllowedPeer>,
}

/// A peer that may take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedPeer {
    /// The one whose certificate has this SHA-256 hash.
    Fingerprint([u8; 32]),
    /// Those whose certificate is for this host name or address.
    Name(ServerName<'static>),
}

impl FromStr for AllowedPeer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(digits) = text.strip_prefix("sha256:") {
            // As openssl prints it, too.
            let bytes = files::hex(&digits.replace(':', ""));
            let fingerprint = bytes.and_then(|bytes| bytes.try_into().ok());
            return fingerprint.map(Self::Fingerprint).ok_or_else(|| {
                format!("{text:?}: a SHA-256 fingerprint has 64 hexadecimal digits")
            });
        }
        let name = ServerName::try_from(text.to_owned());
        name.map(Self::Name).map_err(|_| {
            format!("{text:?} is neither sha256:FINGERPRINT nor a host name or address")
        })
    }
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// A file cannot be used.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No certificate can be for this host.
    #[error("no certificate can be for {0:?}; name the target's with --tls-hostname")]
    BadName(String),
}

impl Certificates {
    /// Those in the directory `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            host_name: None,
            allowed: Vec::new(),
        }
    }

    /// The target's certificate must be for `name`, and not for the host that was connected to.
    #[must_use]
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.host_name = Some(name.into());
        self
    }

    /// Of those whom the authority vouches for, only `peers` may take part; if there are any.
    #[must_use]
    pub fn allowed(mut self, peers: Vec<AllowedPeer>) -> Self {
        self.allowed = peers;
        self
    }

    /// What an end with these certificates is like.
    pub(super) fn local(&self, end: End) -> Local {
        Local {
            end,
            trust: Trust::Certificates {
                dir: self.dir.clone(),
            },
        }
    }

    /// For the source: its certificate, what looks at the target's, and whom that must be for.
    pub(super) fn client(
        &self,
        host: &str,
    ) -> Result<(Own, Arc<dyn ServerCertVerifier>, ServerName<'static>), CertificatesError> {
        let host = self.host_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| CertificatesError::BadName(host.to_owned()))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots()?, provider())
            .with_crls(self.revoked()?)
            .build()
            .map_err(|error| self.unreadable("ca-crl.pem", error))?;
        let verifier = Listed::<dyn ServerCertVerifier> {
            allowed: self.allowed.clone(),
            inner: verifier,
        };
        Ok((self.own(End::Source)?, Arc::new(verifier), name))
    }

    /// For the target: its certificate, and what looks at the source's.
    pub(super) fn server(&self) -> Result<(Own, Arc<dyn ClientCertVerifier>), CertificatesError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .with_crls(self.revoked()?)
            .build()
            .map_err(|error| self.unreadable("ca-crl.pem", error))?;
        let verifier = Listed::<dyn ClientCertVerifier> {
            allowed: self.allowed.clone(),
            inner: verifier,
        };
        Ok((self.own(End::Target)?, Arc::new(verifier)))
    }

    /// That key and certificate of `end` do not go together, or rustls cannot use them.
    pub(super) fn unusable(&self, end: End, error: &rustls::Error) -> io::Error {
        let [certificate, key] = own_files(end);
        let dir = self.dir.display();
        io::Error::other(format!("{dir}: {certificate} and {key}: {error}"))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, CertificatesError> {
        const FILE: &str = "ca-cert.pem";
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(FILE)? {
            roots
                .add(certificate)
                .map_err(|error| self.unreadable(FILE, error))?;
        }
        Ok(Arc::new(roots))
    }

    fn revoked(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, CertificatesError> {
        const FILE: &str = "ca-crl.pem";
        match fs::read(self.dir.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(self.unreadable(FILE, error)),
            Ok(text) => {
                let lists: Result<Vec<_>, pem::Error> =
                    CertificateRevocationListDer::pem_slice_iter(&text).collect();
                match lists {
                    Ok(lists) if !lists.is_empty() => Ok(lists),
                    Ok(_) => Err(self.unreadable(FILE, "there is no revocation list in it")),
                    Err(error) => Err(self.unreadable(FILE, error)),
                }
            }
        }
    }

    fn own(&self, end: End) -> Result<Own, CertificatesError> {
        let [certificate, key_file] = own_files(end);
        let chain = self.certificates(certificate)?;
        let open = || -> Result<Vec<u8>, SecretFileError> {
            let mut text = Vec::new();
            files::open_secret(&self.dir.join(key_file))?.read_to_end(&mut text)?;
            Ok(text)
        };
        let text = open().map_err(|error| self.unreadable(key_file, error))?;
        let key = PrivateKeyDer::from_pem_slice(&text);
        let key = key.map_err(|error| self.unreadable(key_file, error))?;
        Ok(Own { chain, key })
    }

    fn certificates(&self, file: &str) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
        let text = fs::read(self.dir.join(file)).map_err(|error| self.unreadable(file, error))?;
        let certificates: Result<Vec<_>, pem::Error> =
            CertificateDer::pem_slice_iter(&text).collect();
        match certificates {
            Ok(found) if !found.is_empty() => Ok(found),
            Ok(_) => Err(self.unreadable(file, "there is no certificate in it")),
            Err(error) => Err(self.unreadable(file, error)),
        }
    }

    fn unreadable(&self, file: &str, why: impl ToString) -> CertificatesError {
        CertificatesError::File {
            path: Path::join(&self.dir, file),
            why: why.to_string(),
        }
    }
}

/// The names of certificate and key of `end`.
pub(super) fn own_files(end: End) -> [&'static str; 2] {
    match end {
        End::Source => ["client-cert.pem", "client-key.pem"],
        End::Target => ["server-cert.pem", "server-key.pem"],
    }
}
