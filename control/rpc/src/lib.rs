//! libvirt's RPC protocol: bytes to values and back, with no socket, thread or clock.
//!
//! Clients that speak it (`virsh`, libvirt's bindings) can drive whatever answers in it. A message is
//! a length, a header of six words and a body in XDR (RFC 4506), everything big-endian. The numbers and
//! layouts here are what `virsh` 11.3 and `libvirtd` 11.3 were seen to exchange; recordings of that are
//! the tests of this crate, and must come out again byte for byte.
//!
//! | module | holds |
//! |---|---|
//! | [`xdr`] | XDR: the trait, the primitives, lists with their limits |
//! | [`message`] | header and body of one message; those that make calls, replies, errors, events |
//! | [`frame`] | a stream of bytes cut into messages |
//! | [`calls`] | procedures: numbers, arguments, replies |
//! | [`events`] | events: numbers and bodies |
//! | [`params`] | typed parameters |
//! | [`error`] | errors: codes, domains, texts |
//! | [`types`] | values that several calls have in common |
//!
//! Nothing of the peer is believed: each length has a limit, and no memory is taken for a length that
//! the rest of the message could not hold.

mod declare;

pub mod calls;
pub mod error;
pub mod events;
pub mod frame;
pub mod message;
pub mod params;
pub mod types;
pub mod xdr;
