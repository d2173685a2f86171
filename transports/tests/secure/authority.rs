//! A certificate authority, and directories of certificates as users have them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pagelift_transports::Certificates;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

/// The host that the tests connect to.
pub(crate) const HOST: &str = "127.0.0.1";

pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is like.
#[derive(Clone, Copy)]
pub(crate) struct Leaf {
    pub(crate) host: &'static str,
    pub(crate) expired: bool,
    pub(crate) serial: u64,
    /// Mode of the file with its key.
    pub(crate) key_mode: u32,
}

impl Default for Leaf {
    fn default() -> Self {
        Self {
            host: HOST,
            expired: false,
            serial: 1,
            key_mode: 0o600,
        }
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// A directory with this authority's certificate, and those that it signs for both sides.
    pub(crate) fn directory(&self, source: Leaf, target: Leaf) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.trusted_in(dir.path());
        self.issue(
            dir.path(),
            "client",
            source,
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        self.issue(
            dir.path(),
            "server",
            target,
            ExtendedKeyUsagePurpose::ServerAuth,
        );
        dir
    }

    /// Makes this the authority that `dir` trusts.
    pub(crate) fn trusted_in(&self, dir: &Path) {
        fs::write(dir.join("ca-cert.pem"), &self.pem).unwrap();
    }

    /// Revokes the certificate `serial`, for those who use `dir`.
    pub(crate) fn revoke_in(&self, dir: &Path, serial: u64) {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        fs::write(dir.join("ca-crl.pem"), list).unwrap();
    }

    fn issue(&self, dir: &Path, side: &str, leaf: Leaf, purpose: ExtendedKeyUsagePurpose) {
        let mut params = CertificateParams::new([leaf.host.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        params.extended_key_usages = vec![purpose];
        if leaf.expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(dir.join(format!("{side}-cert.pem")), certificate.pem()).unwrap();
        let key_file = dir.join(format!("{side}-key.pem"));
        fs::write(&key_file, key.serialize_pem()).unwrap();
        fs::set_permissions(&key_file, fs::Permissions::from_mode(leaf.key_mode)).unwrap();
    }
}

/// Certificates that all is well with, and where they are.
pub(crate) fn good() -> (Authority, TempDir) {
    let authority = Authority::new("authority");
    let dir = authority.directory(
        Leaf::default(),
        Leaf {
            serial: 2,
            ..Leaf::default()
        },
    );
    (authority, dir)
}

pub(crate) fn in_dir(dir: &TempDir) -> Certificates {
    Certificates::new(dir.path())
}
