//! The transport contract: connections that carry bytes in order.
//!
//! The engine asks for no more than this of what lies between source and target, and knows nothing of
//! sockets. On the source a [`Link`] opens a [`Connection`] for each [`Role`]; on the target a
//! [`Listener`] accepts them. A connection says who its [`Peer`] is, if the transport knows. What a user
//! may cap is [`RateCapped`]. The [`SendHalf`] of a connection lends the memory that frames are made in.
//! A transport that writes the target's memory by itself has [`Expose`] there, and a [`Fence`].

mod connection;
mod link;
mod one_sided;
mod peer;
mod role;
mod send_half;
mod stats;

pub use connection::{Closer, Connection};
pub use link::{Link, Listener, RateCapped};
pub use one_sided::{Expose, Fence};
pub use peer::{BindingProof, ChannelBinding, Peer, PeerIdentity};
pub use role::Role;
pub use send_half::{SEND_BUFFER_BYTES, SendHalf, WriteHalf, send_buffer};
pub use stats::{SendQueue, SendStats};
