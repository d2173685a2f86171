//! The embedder's door: a migration as a value that is set up, started and waited for.
//!
//! [`Outgoing`] sends a guest, [`Incoming`] takes one. Each is made of a way to the other side, the
//! guest's RAM and the guest; everything else has a default. `start` gives a [`Job`], which runs in
//! threads of its own and owns all it needs: it can be polled by a file descriptor, asked for its
//! status, changed, cancelled and waited for.
//!
//! ```no_run
//! # use pagelift_engine::{Event, Ended, GuestRam, Outgoing, guest::SourceGuest};
//! # use pagelift_engine::transport::RateCapped;
//! # use std::time::Duration;
//! # fn leave(link: Box<dyn RateCapped>, ram: GuestRam, guest: impl SourceGuest + 'static) {
//! let job = Outgoing::new(link, ram, guest)
//!     .downtime(Duration::from_millis(100))
//!     .start()
//!     .expect("enough memory for the delta cache");
//! while let Some(event) = job.wait_event() {
//!     println!("{event:?}");
//! }
//! let Ended { result, .. } = job.wait();
//! println!("the guest is on the {}", match result {
//!     Ok(_) => "target",
//!     Err(failure) => failure.guest.name(),
//! });
//! # }
//! ```

mod board;
mod budget;
mod delta_cache;
mod events;
mod handle;
mod incoming;
mod outgoing;
mod running;

pub use delta_cache::DeltaCacheSize;
pub use events::Event;
pub use handle::JobEvents;
pub use incoming::Incoming;
pub use outgoing::Outgoing;
pub use running::{Completed, Ended, Job};

use crate::codec::cache::CacheError;
use crate::sys::{SysError, random_number};

/// Why a job was not started. The guest runs where it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The delta cache that was asked for is too small to be of use.
    #[error(transparent)]
    DeltaCache(#[from] CacheError),
    /// There are no random numbers to name the migration by.
    #[error(transparent)]
    Random(#[from] SysError),
    /// The kernel refused a thread or a file descriptor.
    #[error("cannot have {what}: {source}")]
    Kernel {
        /// What it refused.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// Most channels that are opened by default: Cloud Hypervisor measured the best rate on a
/// 100 Gbit/s link with 8 connections, and a worse one with 16.
const MOST_DEFAULT_CHANNELS: usize = 8;

/// Data channels where the embedder does not say: one for each processor that may run a thread,
/// at most 8. A channel's thread reads, encodes and sends; more of them than processors only take
/// turns.
pub fn default_channels() -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors.min(MOST_DEFAULT_CHANNELS) as u16
}

/// A number that nobody can guess: the name of a migration, the key of its page identities.
fn random() -> Result<u128, StartError> {
    Ok(random_number()?)
}
