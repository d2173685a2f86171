//! Explanations of TLS's refusals: which certificate, which check, which side.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::certificates::own_files;
use super::{Local, Trust};

/// What `error` means on an end like `local`, with the way out.
pub(super) fn explain(error: &Error, local: &Local) -> String {
    let other = local.end.other().name();
    match error {
        Error::InvalidCertificate(why) => {
            format!(
                "the {other}'s certificate is refused on this side: {}",
                certificate(why, local)
            )
        }
        Error::NoCertificatesPresented => format!("the {other} has shown no certificate"),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | Error::NoApplicationProtocol => {
            let (ours, theirs) = match local.trust {
                Trust::Token(_) => ("a token", "certificates"),
                Trust::Certificates { .. } => ("certificates", "a token"),
            };
            format!(
                "this side was told to use {ours}, and the {other} probably {theirs}: give both the \
                 same"
            )
        }
        Error::AlertReceived(alert) => refused_by_other(*alert, local),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => format!(
            "the {other} does not speak TLS; give it the token or the certificates that this side \
             was given"
        ),
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => format!("the {other} does not speak TLS 1.3, and this side nothing older"),
        error => format!("TLS with the {other} failed: {error}"),
    }
}

/// What is wrong with the other side's certificate.
fn certificate(why: &CertificateError, local: &Local) -> String {
    let file = |name: &str| match &local.trust {
        Trust::Certificates { dir } => dir.join(name).display().to_string(),
        Trust::Token(_) => name.to_owned(),
    };
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired, if this host's clock is right".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet, if this host's clock is right".into()
        }
        CertificateError::Revoked => format!("it is revoked by {}", file("ca-crl.pem")),
        CertificateError::UnknownIssuer => {
            format!("no authority of {} has signed it", file("ca-cert.pem"))
        }
        CertificateError::UnknownRevocationStatus => format!(
            "{} has no list of the authority that signed it",
            file("ca-crl.pem")
        ),
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            format!("{} is out of date", file("ca-crl.pem"))
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "it is for {}, and not for {}; name the one it is for with --tls-hostname",
            presented.join(", "),
            expected.to_str()
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("it was not made for a {}", local.end.other().name())
        }
        CertificateError::Other(reason) => reason.to_string(),
        why => why.to_string(),
    }
}

/// The other side ended the handshake, with `alert` as its reason.
fn refused_by_other(alert: AlertDescription, local: &Local) -> String {
    let other = local.end.other().name();
    let [file, _] = own_files(local.end);
    let why = match alert {
        AlertDescription::UnknownCA => "no authority of its ca-cert.pem has signed it",
        AlertDescription::CertificateExpired => "it has expired, or the clock there is wrong",
        AlertDescription::CertificateRevoked => "its ca-crl.pem has it as revoked",
        AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => {
            "its output says why (another name, or not among the peers allowed)"
        }
        AlertDescription::ProtocolVersion => {
            return format!("the {other} does not speak TLS 1.3");
        }
        alert => return format!("the {other} ended the TLS handshake: {alert:?}"),
    };
    format!("the {other} refuses {file} of this side: {why}")
}
