//! Binding of connections to their migration.
//!
//! The session's number is known to everybody who was shown it; the right to open a further
//! connection must not follow from that alone. Where the transport authenticates, a data connection
//! and a control connection that takes the place of a lost one come from the same peer as the first
//! control connection, and carry a proof that only its two ends can make
//! ([`ChannelBinding::prove`]). Over a transport that does not, the number is all there is.

use crate::transport::{BindingProof, ChannelBinding, Peer};
use crate::wire::{FrameType, SessionId};

/// What a further connection of a migration is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// The data channel of this number.
    Join(u16),
    /// To take the place of a control connection that is lost.
    Reattach,
}

impl Opening {
    /// What is proven: part of the wire format.
    fn words(self, session: SessionId) -> [u8; 20] {
        let (kind, channel) = match self {
            Self::Join(channel) => (FrameType::Join, channel),
            Self::Reattach => (FrameType::Reattach, 0),
        };
        let mut words = [0; 20];
        words[..16].copy_from_slice(&session.0.to_le_bytes());
        words[16..18].copy_from_slice(&(kind as u16).to_le_bytes());
        words[18..].copy_from_slice(&channel.to_le_bytes());
        words
    }
}

/// The source's proof that it opens the connection to `peer`; `first` is what ties it to its first
/// control connection. `None` where the transport does not authenticate.
pub(super) fn prove(
    first: Option<&ChannelBinding>,
    peer: &Peer,
    session: SessionId,
    opening: Opening,
) -> Option<BindingProof> {
    Some(first?.prove(peer.binding()?, &opening.words(session)))
}

/// Whether the connection to `peer`, which came with `proof`, belongs to the migration whose first
/// control connection has `first`.
pub(super) fn belongs(
    first: Option<&ChannelBinding>,
    peer: &Peer,
    session: SessionId,
    opening: Opening,
    proof: Option<&BindingProof>,
) -> bool {
    match (first, peer.binding(), proof) {
        (None, None, None) => true,
        (Some(first), Some(binding), Some(proof)) => {
            first.is_proven(binding, &opening.words(session), proof)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use super::*;
    use crate::transport::PeerIdentity;

    fn peer(binding: Option<&ChannelBinding>) -> Peer {
        let stranger = Peer::unauthenticated("somebody");
        let Some(binding) = binding else {
            return stranger;
        };
        let set = OnceLock::from(binding.clone());
        stranger.authenticated_by(Arc::new(set))
    }

    #[test]
    fn a_connection_belongs_where_its_proof_says_so_or_nobody_is_authenticated() {
        let session = SessionId(5);
        let binding = |secret| ChannelBinding::new(PeerIdentity([1; 32]), [secret; 32]);
        let (first, second) = (binding(1), peer(Some(&binding(2))));
        let proof = prove(Some(&first), &second, session, Opening::Join(3));
        assert!(proof.is_some());
        let belongs = |session, opening, proof: Option<&_>| {
            belongs(Some(&first), &second, session, opening, proof)
        };
        assert!(belongs(session, Opening::Join(3), proof.as_ref()));
        assert!(!belongs(session, Opening::Join(4), proof.as_ref()));
        assert!(!belongs(session, Opening::Reattach, proof.as_ref()));
        assert!(!belongs(SessionId(6), Opening::Join(3), proof.as_ref()));
        assert!(!belongs(session, Opening::Join(3), None));

        let nobody = peer(None);
        assert_eq!(prove(None, &nobody, session, Opening::Reattach), None);
        let plain = |first, peer: &Peer, proof: Option<&_>| {
            super::belongs(first, peer, session, Opening::Reattach, proof)
        };
        assert!(plain(None, &nobody, None));
        assert!(
            !plain(Some(&first), &nobody, None),
            "the first was authenticated"
        );
        assert!(!plain(None, &second, None), "the first was not");
    }
}
