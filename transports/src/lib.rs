//! What carries pagelift's frames.
//!
//! A transport implements the engine's [`Link`](pagelift_engine::transport::Link) and
//! [`Listener`](pagelift_engine::transport::Listener): it opens connections that carry bytes in
//! order, and knows nothing of what they mean. [`Endpoint`] reads the URIs that users write.
//!
//! | module | carries by |
//! |---|---|
//! | [`tcp`] | blocking TCP sockets |
//! | [`pace`] | nothing itself: caps the rate of another transport |
//! | [`sim`] | a simulated network under virtual time |

#![cfg(target_os = "linux")]

mod buffers;
mod gauge;
pub mod pace;
pub mod sim;
mod socket;
pub mod tcp;
mod uri;

pub use uri::{Endpoint, EndpointError};

use pagelift_engine::wire::MAX_CHANNELS;

/// Most channels that [`auto_channels`] picks: Cloud Hypervisor measured the best rate on a
/// 100 Gbit/s link with 8 connections, and a worse one with 16.
const MOST_AUTO_CHANNELS: usize = 8;

/// Data channels for a migration when the user leaves it to us: one for each core that may run
/// a thread, at most 8.
///
/// A channel's thread reads, scans and sends; more of them than cores only take turns.
pub fn auto_channels() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores.min(MOST_AUTO_CHANNELS)).unwrap_or(MAX_CHANNELS)
}
