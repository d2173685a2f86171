//! The source and the target machine against each other, message by message: orders of events
//! that threads and networks bring about rarely.

#[path = "../machines/mod.rs"]
mod machines;
#[path = "../support/mod.rs"]
mod support;

mod acknowledgements;
mod commit;
mod handshake;
mod pair;
mod rounds;
