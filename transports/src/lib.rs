//! The transports of pagelift.
//!
//! A transport implements the engine's [`Link`](pagelift_engine::transport::Link) and
//! [`Listener`](pagelift_engine::transport::Listener): it opens connections that carry bytes in
//! order, and knows nothing of what they mean. [`Endpoint`] reads the URIs that users write, and
//! connects or listens there.
//!
//! | module | is |
//! |---|---|
//! | `tcp` | blocking TCP sockets: `tcp://host:port` |
//! | `paced` | a cap on the rate of any link, see [`Paced`] |
//! | `sim` | a simulated network under virtual time, with the feature `sim`: for tests |

#![cfg(target_os = "linux")]

mod endpoint;
mod paced;
#[cfg(feature = "sim")]
pub mod sim;
mod tcp;

pub use endpoint::{Endpoint, EndpointError};
pub use paced::Paced;

use pagelift_engine::wire::MAX_CHANNELS;

/// Most channels that [`auto_channels`] picks: Cloud Hypervisor measured the best rate on a
/// 100 Gbit/s link with 8 connections, and a worse one with 16.
const MOST_AUTO_CHANNELS: usize = 8;

/// Data channels of a migration where the user names no number: one for each core that may run a
/// thread, at most 8.
///
/// A channel's thread reads, encodes and sends; more of them than cores only take turns.
pub fn auto_channels() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores.min(MOST_AUTO_CHANNELS)).unwrap_or(MAX_CHANNELS)
}
