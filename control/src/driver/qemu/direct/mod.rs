//! Direct mode: an unmodified QEMU's guest, whose RAM the engine moves from outside.
//!
//! [`DirectSource`] and [`DirectTarget`] are the guests that the engine sees. QEMU's own
//! migration carries the devices: its stream goes through the engine's control connection as
//! opaque device state, and the answers come back the same way, so that one network path is
//! enough.
//!
//! ```text
//!   engine: precopy of RAM ........................ rounds, guest runs
//!   pause()         QEMU's `migrate` begins, guest stops (pre-switchover)
//!   engine: last pages, Complete
//!   save_devices()  migrate-continue; device state flows
//!                                                   target's QEMU loads, says SHUT (kept back)
//!   engine: Ready
//!   relinquish()    SHUT to the source's QEMU, its `completed`, will cleared
//!   engine: HandOver
//!                                                   run(): cont
//! ```
//!
//! # If a disk fails on the way
//!
//! A guest that QEMU has stopped because of an I/O error moves like one that was paused: it
//! arrives stopped, with its failed request, and is to be told `cont` once the disk is well. A
//! user who would rather have it stay says so (`abort_on_error`): then the migration ends, and
//! the guest stays as QEMU has left it, on the source.
//!
//! # If pagelift is killed
//!
//! The agent in QEMU holds a rollback script from the start and runs it when pagelift's
//! connection ends: `migrate_cancel` brings the guest back from every state before the commit,
//! and QEMU's settings are put back. While the commit is under way the script has a `cont` as
//! well, since a QEMU that completed would stay stopped. That is safe as long as the target has
//! not been told that the guest is its own; so the script is cleared, with the agent's answer,
//! before the target is told. Dirty tracking ends by itself:
//! the kernel disarms it when the last reference to the userfaultfd goes. So does a throttle by
//! the agent; quotas of cgroups are put back by a guard process of their own.

mod disk_errors;
mod source;
mod switchover_costs;
mod target;
mod throttling;
mod vcpus;
mod watch;

pub use source::{DirectSource, Prepared, SourceError, SourceOptions};
pub use target::{DirectTarget, TargetError, TargetPrepared};
pub use throttling::ThrottleBy;
pub use vcpus::Throttled;

use pagelift_engine::memory::{FileMemory, Layout, LayoutError, MemoryError, Region, RegionFile};
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount};
use pagelift_engine::wire::Fact;

use super::Refusal;
use super::inspect::{Guest, RamBlock};

/// First byte of the device state: this version of what follows.
const PREAMBLE_VERSION: u8 = 1;

/// What the source's half tells the target's before QEMU's own stream: two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Preamble {
    /// Whether the guest was running, and so has to run on the target.
    run: bool,
}

impl Preamble {
    /// Length on the wire.
    const BYTES: usize = 2;

    fn encode(self) -> [u8; Self::BYTES] {
        [PREAMBLE_VERSION, u8::from(self.run)]
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [PREAMBLE_VERSION, run @ 0..=1] => Some(Self { run: run == 1 }),
            _ => None,
        }
    }
}

/// The engine's view of a guest's RAM blocks.
fn open_memory(blocks: &[RamBlock]) -> Result<FileMemory, OpenMemoryError> {
    let regions = blocks
        .iter()
        .map(|block| Region {
            name: block.name.clone(),
            pages: PageCount(block.bytes / PAGE_BYTES as u64),
            backing_page: ByteCount(block.page_bytes),
        })
        .collect();
    let files = blocks
        .iter()
        .map(|block| {
            let file = block.file.try_clone()?;
            Ok(RegionFile {
                file,
                offset: block.file_offset,
            })
        })
        .collect::<std::io::Result<_>>()?;
    Ok(FileMemory::new(Layout::new(regions)?, files)?)
}

/// Why RAM that QEMU has could not be opened here.
#[derive(Debug, thiserror::Error)]
pub enum OpenMemoryError {
    /// The blocks make no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file cannot be used.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A descriptor cannot be copied.
    #[error("cannot open the guest's RAM: {0}")]
    Io(#[from] std::io::Error),
}

/// The refusals, one a line, for the end of a message.
fn list(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(|refusal| format!("\n  - {refusal}"))
        .collect()
}

/// What must be equal on both sides.
fn facts(guest: &Guest) -> Vec<Fact> {
    guest
        .facts()
        .into_iter()
        .map(|(name, value)| Fact::new(name, value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_reads_back_and_nothing_else_does() {
        for run in [false, true] {
            let preamble = Preamble { run };
            assert_eq!(Preamble::decode(&preamble.encode()), Some(preamble));
        }
        for wrong in [&[][..], &[1], &[1, 2], &[2, 1], &[1, 1, 1]] {
            assert_eq!(Preamble::decode(wrong), None);
        }
    }
}
