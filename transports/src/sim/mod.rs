//! A simulated network, for runs that can be repeated exactly.
//!
//! Connections carry bytes in order, as real ones do, with a rate that all of them share, a
//! latency each, jitter, and a bounded amount of bytes under way. Time is virtual: it stands
//! still until the owner of the [`SimClock`] moves it. Nothing here waits, starts a thread, reads a
//! real clock or draws a random number that the seed does not determine.
//!
//! Reading what has not arrived yet gives `WouldBlock`, as the engine's workers expect of a
//! connection that has nothing for now. Writing always takes everything, because the one thread
//! there is could not make room while it waits. The loop that steps the workers checks
//! [`SimNetwork::has_room`] first, which is the back-pressure.
//!
//! Faults come from outside, between two steps: [`reset`](SimNetwork::reset),
//! [`half_close`](SimNetwork::half_close), [`hold`](SimNetwork::hold) (a spike, or a black
//! hole), [`corrupt`](SimNetwork::corrupt), [`refuse_until`](SimNetwork::refuse_until).
//!
//! Cost: two copies of each byte, one lock per read and write.

mod clock;
mod network;
mod pipe;
mod rng;
#[cfg(test)]
mod tests;

pub use clock::SimClock;
pub use network::{ConnectionId, Direction, NetworkConfig, SimLink, SimListener, SimNetwork};
pub use rng::SimRng;
