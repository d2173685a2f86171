//! Who is at the ends of a connection, as the transport would know it.

use std::sync::{Arc, OnceLock};

use pagelift_engine::transport::{ChannelBinding, Peer, PeerIdentity};

use super::{ConnectionId, Direction, SimNetwork};

/// Who has opened a connection.
#[derive(Clone, Debug)]
pub(super) enum Opener {
    /// The source: always the same one.
    Source,
    /// Somebody else.
    Stranger {
        /// Host and port.
        address: String,
        /// Whom the transport has let in; nobody as long as it has not.
        identity: Option<PeerIdentity>,
    },
}

impl SimNetwork {
    /// The other side of connection `id`, as seen by the one that writes in `direction`. Where the
    /// transport authenticates, both know a secret of the connection.
    pub(super) fn peer(&self, id: ConnectionId, direction: Direction) -> Peer {
        let net = self.lock();
        let opener = net.connections.get(id).map(|wire| wire.opener.clone());
        let authenticates = net.authenticates;
        drop(net);
        let other = PeerIdentity([direction.back() as u8; 32]);
        let (address, identity) = match (opener, direction) {
            (Some(Opener::Stranger { address, identity }), Direction::ToSource) => {
                (address, identity)
            }
            _ => (format!("connection {id}"), Some(other)),
        };
        let peer = Peer::unauthenticated(address);
        if !authenticates {
            return peer;
        }
        let known = OnceLock::new();
        if let Some(identity) = identity {
            let mut secret = [0; 32];
            secret[..8].copy_from_slice(&(id as u64).to_le_bytes());
            // It was not set before.
            let _ = known.set(ChannelBinding::new(identity, secret));
        }
        peer.authenticated_by(Arc::new(known))
    }
}
