//! The first bytes inside TLS, before the engine's.
//!
//! ```text
//! source -> target   32 bytes, with a token: proof that the source has it
//! target -> source   1 byte: 1, the source is taken in; or 0, its proof is wrong
//!                    32 bytes, with a token: proof that the target has it
//! ```
//!
//! A proof is HMAC-SHA-256 under the token over the role of the one who proves, and over a secret
//! that TLS exports from this very handshake (RFC 8446, 7.5; RFC 9266). Both sides' random numbers and
//! the target's certificate are in that secret, so a proof is good for one connection only and cannot
//! be passed on: in the middle there would be two handshakes with two secrets. The source proves
//! first; a target that was not convinced says nothing that depends on the token.
//!
//! With certificates the one byte is the target's word that it has checked the source's: in TLS 1.3 a
//! client is done before its certificate was looked at.

use aws_lc_rs::hmac;
use rustls::Connection;

use super::{End, Token};

/// Bytes of a proof.
pub(super) const PROOF_BYTES: usize = 32;

/// The target takes the source in.
pub(super) const TAKEN_IN: u8 = 1;

/// The source's proof is wrong.
pub(super) const WRONG_PROOF: u8 = 0;

/// What the secret for proofs is exported for.
const LABEL: &[u8] = b"EXPORTER-pagelift-token";

/// The token, and what TLS exports for proofs on one connection.
pub(super) struct Prover {
    key: hmac::Key,
    exported: [u8; 32],
}

impl Prover {
    /// # Errors
    /// When the handshake is not complete.
    pub(super) fn new(token: &Token, tls: &Connection) -> Result<Self, rustls::Error> {
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, token.bytes()),
            exported: export(tls, LABEL)?,
        })
    }

    /// That `end` has the token.
    pub(super) fn prove(&self, end: End) -> [u8; PROOF_BYTES] {
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(hmac::sign(&self.key, &self.said(end)).as_ref());
        proof
    }

    /// Whether `proof` is that of `end`. Takes the same time for any wrong one.
    pub(super) fn is_proven(&self, end: End, proof: &[u8]) -> bool {
        hmac::verify(&self.key, &self.said(end), proof).is_ok()
    }

    fn said(&self, end: End) -> Vec<u8> {
        [end.name().as_bytes(), &self.exported].concat()
    }
}

/// A secret that both ends of this connection can make, and nobody else.
///
/// # Errors
/// When the handshake is not complete.
pub(super) fn export(tls: &Connection, label: &[u8]) -> Result<[u8; 32], rustls::Error> {
    match tls {
        Connection::Client(tls) => tls.export_keying_material([0; 32], label, None),
        Connection::Server(tls) => tls.export_keying_material([0; 32], label, None),
    }
}
