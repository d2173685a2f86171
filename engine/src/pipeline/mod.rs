//! Runs the [machines](crate::migration) over a real link: who reads, encodes, sends, receives
//! and places, and in which thread.
//!
//! ```text
//!   send()                                   receive()
//!   coordinator: SourceSession               coordinator: TargetSession
//!     open, cancel, settle                     cancel, stay to be asked
//!     SourceDriver                             TargetDriver
//!     arm, harvest, stop, hand over            prepare, digest, load, run
//!   one thread a data channel:               one thread a data channel:
//!     SourceChannel                            TargetChannel
//!     take a batch, read, find zeros, send     receive, check, place, acknowledge
//!   one thread for control: ControlReader    one thread for control: ControlReader
//!   one thread: CancelWatchdog
//!                                            one thread: CatalogueWorker
//!                                              tell of pages that are here already
//! ```
//!
//! The machine sits behind one lock, taken for microseconds per frame of up to 1 MiB; all
//! reading, sending and placing happens outside it. Each worker and coordinator has a `step`
//! method that waits for nothing but its connection, so the simulator runs the very same code
//! without threads.
//!
//! Back-pressure is the connection's: a channel that cannot send takes no more work. Memory in
//! use is bounded by [`memory_budget`] and does not depend on the guest's writes.

mod cancel;
mod clock;
mod control;
mod controls;
mod digest;
mod disconnect_grace;
mod log;
mod shared;
mod source;
mod target;

pub use cancel::CancelToken;
pub use clock::{Clock, SystemClock, Unused, process_cpu};
pub use control::ControlReader;
pub use controls::{Controls, Settings};
pub use digest::{digest_memory, digest_memory_unless};
pub use shared::{Machine, Shared};
pub use source::{
    Deltas, Packing, SendJob, SendOptions, SourceChannel, SourceDriver, SourceParts, SourceSession,
    SourceWorker, send,
};
pub use target::{
    Acceptor, CatalogueWorker, KeptPages, ReceiveJob, Received, TargetChannel, TargetDriver,
    TargetSession, TargetWorker, receive,
};

use crate::codec::CompressSetting;
use crate::codec::block::{BlockEncoder, DECODER_BYTES, MAX_BLOCK_PAGES};
use crate::codec::choose::{Chooser, CpuLimit};
use crate::codec::reference::{self, ReferenceSetting};
use crate::guest;
use crate::memory::{Layout, PageBuffer};
use crate::transport::SEND_BUFFER_BYTES;
use crate::units::{ByteCount, Instant, PAGE_BYTES};
use crate::wire::MAX_REFERENCE_PAGES;

/// What a worker's step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something; there may be more.
    Worked,
    /// Nothing came in. The connection's read has waited for it already, if it can.
    Quiet,
    /// Nothing; try again after something has happened, or at this time.
    Wait(Instant),
    /// Everything; the worker is no longer needed.
    Done,
}

/// Most memory that one side uses for a migration of `channels` data channels, next to the
/// guest's own: buffers of frames on both ends of a channel, a block and what unpacks it or applies
/// deltas, pieces of device state under way, and sets of pages. What packs is
/// [beyond that](packing_budget).
pub fn memory_budget(layout: &Layout, channels: u16) -> ByteCount {
    let frames = (u64::from(channels) * 2 + 2) * SEND_BUFFER_BYTES as u64;
    let block = PageBuffer::footprint(MAX_BLOCK_PAGES).0;
    let blocks = u64::from(channels) * (block + DECODER_BYTES);
    let referred = u64::from(channels) * PageBuffer::footprint(MAX_REFERENCE_PAGES).0;
    let state = guest::QUEUED_CHUNKS as u64 * guest::STATE_CHUNK_BYTES as u64;
    // Pending, held back, written and to go again, harvested, given back, missing, to be whole,
    // three of heat, and the tracker's own.
    let sets = 12 * layout.pages().0.div_ceil(8);
    let threads = (u64::from(channels) + 4) * THREAD_BYTES;
    ByteCount(frames + blocks + referred + state + sets + threads)
}

/// Most memory that a source uses, next to its [`memory_budget`], to send references as `setting`
/// says.
pub fn reference_budget(setting: ReferenceSetting, layout: &Layout) -> ByteCount {
    match setting {
        ReferenceSetting::Off => ByteCount(0),
        ReferenceSetting::Auto | ReferenceSetting::On => reference::footprint(layout.pages()),
    }
}

/// Most memory that a source uses, next to its [`memory_budget`], to pack pages as `setting`
/// says.
pub fn packing_budget(setting: CompressSetting, channels: u16) -> ByteCount {
    let codecs = Chooser::new(setting, 1, CpuLimit::default());
    let bytes = BlockEncoder::most_bytes(codecs.codecs());
    let block = if bytes.0 > 0 { BLOCK_BYTES } else { 0 };
    ByteCount(u64::from(channels) * (bytes.0 + block))
}

/// Bytes of the largest block.
const BLOCK_BYTES: u64 = (MAX_BLOCK_PAGES * PAGE_BYTES) as u64;

/// What a thread's stack and its share of the allocator come to.
const THREAD_BYTES: u64 = 256 << 10;

/// A thread that steps a worker until it is done.
fn run_worker<M: Machine>(shared: &Shared<M>, mut step: impl FnMut() -> Step) {
    loop {
        let seen = shared.version();
        match step() {
            Step::Worked | Step::Quiet => {}
            Step::Wait(until) => shared.wait_past(seen, until),
            Step::Done => return,
        }
    }
}
