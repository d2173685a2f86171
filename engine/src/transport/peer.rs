//! The other end of a connection, as far as the transport knows it.
//!
//! The engine compares identities and makes proofs from secrets. What an identity stands for (a
//! certificate, a token) and where a secret comes from is the transport's business.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// Bytes of identities, secrets and proofs.
const BYTES: usize = 32;

/// What the keys of proofs are derived for; part of the wire format.
const CONTEXT: &str = "pagelift 2026-12 connections of one migration";

/// Somebody whom a transport has authenticated: equal for the same one, and for nobody else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity(pub [u8; BYTES]);

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerIdentity({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// That a connection belongs to a migration; see [`ChannelBinding::prove`].
pub type BindingProof = [u8; BYTES];

/// What ties an authenticated connection to its two ends (a channel binding, RFC 5056).
#[derive(Clone)]
pub struct ChannelBinding {
    /// The other end.
    identity: PeerIdentity,
    /// Known to both ends and to nobody else, and different for every connection.
    secret: [u8; BYTES],
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelBinding({:?})", self.identity)
    }
}

impl ChannelBinding {
    /// A connection whose other end is `identity`. `secret` must follow from what both ends have
    /// chosen at random for this connection: that is what makes a recorded proof worthless.
    pub fn new(identity: PeerIdentity, secret: [u8; BYTES]) -> Self {
        Self { identity, secret }
    }

    /// The other end.
    pub fn identity(&self) -> PeerIdentity {
        self.identity
    }

    /// Proves that the end which has `self`, the first control connection of a migration, has
    /// opened `connection` too, for the purpose that `words` name.
    pub fn prove(&self, connection: &Self, words: &[u8]) -> BindingProof {
        *self.mac(connection, words).as_bytes()
    }

    /// Whether `connection` has the same other end as `self`, and that end has
    /// [proven](Self::prove) that it opened both. Takes the same time for any wrong proof.
    pub fn is_proven(&self, connection: &Self, words: &[u8], proof: &BindingProof) -> bool {
        // The comparison of `blake3::Hash` takes constant time.
        connection.identity == self.identity && self.mac(connection, words) == *proof
    }

    fn mac(&self, connection: &Self, words: &[u8]) -> blake3::Hash {
        let key = blake3::derive_key(CONTEXT, &self.secret);
        let mut mac = blake3::Hasher::new_keyed(&key);
        // The secret has a fixed length, so no other pair gives the same bytes.
        mac.update(&connection.secret).update(words);
        mac.finalize()
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    address: String,
    binding: Option<Arc<OnceLock<ChannelBinding>>>,
}

impl Peer {
    /// Somebody at `address` (in words for people) whom the transport does not authenticate.
    pub fn unauthenticated(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            binding: None,
        }
    }

    /// Somebody whom the transport authenticates before it hands out the first byte. The binding is
    /// set by then.
    #[must_use]
    pub fn authenticated_by(&self, binding: Arc<OnceLock<ChannelBinding>>) -> Self {
        Self {
            address: self.address.clone(),
            binding: Some(binding),
        }
    }

    /// Where it is, in words for people.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What ties the connection to it; `None` if it is not authenticated, or not yet.
    pub fn binding(&self) -> Option<&ChannelBinding> {
        self.binding.as_ref()?.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(who: u8, secret: u8) -> ChannelBinding {
        ChannelBinding::new(PeerIdentity([who; BYTES]), [secret; BYTES])
    }

    #[test]
    fn only_who_has_the_first_connection_proves_that_another_is_its_own() {
        // Each side has the other's identity, and the same secrets.
        let (ours, theirs) = (
            (binding(1, 1), binding(1, 2)),
            (binding(2, 1), binding(2, 2)),
        );
        let proof = ours.0.prove(&ours.1, b"data 0");
        assert!(theirs.0.is_proven(&theirs.1, b"data 0", &proof));
        assert!(
            !theirs.0.is_proven(&theirs.1, b"data 1", &proof),
            "for another purpose"
        );
        assert!(
            !theirs.0.is_proven(&binding(2, 3), b"data 0", &proof),
            "replayed"
        );
        assert!(
            !binding(2, 9).is_proven(&theirs.1, b"data 0", &proof),
            "another migration"
        );
        assert!(
            !theirs.0.is_proven(&binding(3, 2), b"data 0", &proof),
            "another peer"
        );
        let mut wrong = proof;
        wrong[31] ^= 1;
        assert!(!theirs.0.is_proven(&theirs.1, b"data 0", &wrong));
        assert!(!format!("{:?}", ours.0).contains("secret"));
    }

    #[test]
    fn a_peer_has_a_binding_when_it_is_authenticated() {
        let stranger = Peer::unauthenticated("10.0.0.1:7");
        assert!(stranger.binding().is_none());
        let later = Arc::new(OnceLock::new());
        let peer = stranger.authenticated_by(Arc::clone(&later));
        assert!(peer.binding().is_none());
        later.set(binding(1, 2)).unwrap();
        assert_eq!(peer.binding().unwrap().identity(), PeerIdentity([1; BYTES]));
        assert_eq!(peer.address(), "10.0.0.1:7");
    }
}
