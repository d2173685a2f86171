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
//!                                            one thread: FingerprintWorker
//!                                              tell of pages that are here already
//! ```
//!
//! The machine sits behind one lock, taken for microseconds per frame of up to 1 MiB; all
//! reading, sending and placing happens outside it. Each worker and coordinator has a `step`
//! method that waits for nothing but its connection, so the simulator runs the very same code
//! without threads.
//!
//! Back-pressure is the connection's: a channel that cannot send takes no more work. Memory in
//! use is bounded by [a budget](crate::Outgoing::memory_budget) and does not depend on the guest's writes.

mod binding;
mod cancel;
mod clock;
mod control;
mod controls;
mod digest;
mod disconnect_grace;
mod log;
mod patience;
mod shared;
mod source;
mod target;

pub use cancel::CancelToken;
pub use clock::{Clock, SystemClock, process_cpu};
pub use control::ControlReader;
pub use controls::{Controls, Settings};
pub use digest::{digest_memory, digest_memory_unless};
pub use shared::{Machine, Shared};
pub use source::{
    Deltas, Packing, SourceChannel, SourceDriver, SourceParts, SourceSession, SourceWorker,
};
pub use target::{
    Acceptor, BasePages, FingerprintWorker, Received, TargetChannel, TargetDriver, TargetSession,
    TargetWorker,
};

pub(crate) use source::{SendJob, SendOptions, send};
pub(crate) use target::{FIRST_FRAME_BYTES, MAX_STRANGERS, ReceiveJob, receive};

use crate::units::Instant;

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
