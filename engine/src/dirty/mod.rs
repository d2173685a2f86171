//! Sources of the set of written pages.
//!
//! A [`DirtySource`] answers one question: which pages were written since it was last asked? To take
//! the answer, and clear it, is a *harvest*.
//!
//! The rule that keeps every write: **a mark is cleared before its page is read**, so that a write
//! that comes later marks the page again. A [`harvest`](DirtySource::harvest) returns after the marks
//! are cleared, or else [`clear_before_read`](DirtySource::clear_before_read) clears them when the
//! time has come.
//!
//! A source that must be attended to between harvests has a door of its own for that, as KVM's rings,
//! which fill up, have [`KvmRings::reap`]; `harvest` then takes what was gathered there.

mod areas;
mod clearing;
mod combined;
mod discards;
mod kvm_log;
mod kvm_rings;
mod manual;
mod pagemap;
mod private;
mod scanners;
mod sparse;

pub use clearing::ClearMarks;
pub(crate) use clearing::ClearedPages;
pub use combined::Combined;
pub use discards::{DiscardSwitch, DiscardTracker};
pub use kvm_log::{KvmLog, LoggedSlot};
pub use kvm_rings::{KvmRingTracker, KvmRings};
pub use manual::{DirtyMarker, ManualTracker, VcpuMarker};
pub use pagemap::{PagemapTracker, TrackedRange};
pub(crate) use scanners::{SCANNER_BYTES, max_scan_threads};

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::memory::PageBitmap;

/// Why writes cannot be tracked.
#[derive(Debug, thiserror::Error)]
pub enum DirtyError {
    /// The kernel lacks something; says what, and what would help.
    #[error("{what}; {remedy}")]
    Unsupported {
        /// What is missing.
        what: String,
        /// What to install, set or change.
        remedy: String,
    },
    /// A kernel call failed that should have worked.
    #[error("{call} failed: {source}")]
    Kernel {
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// The set of pages written since it was last asked for.
pub trait DirtySource: Send {
    /// Starts tracking: from here on every write is seen.
    ///
    /// # Errors
    /// When the kernel cannot track this memory. Nothing is left armed then.
    fn arm(&mut self) -> Result<(), DirtyError>;

    /// Adds to `into` the pages written since the last harvest (or since arming), after their
    /// marks have been cleared; or, with [`clear_before_read`](Self::clear_before_read), those that
    /// were not reported since their marks were last cleared.
    ///
    /// # Errors
    /// When the kernel fails; `into` may then hold a part of the set.
    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError>;

    /// The same for a guest that stands still: where that takes a while, what was found so far is given
    /// to `part` now and then, and is no longer in `into` when this goes on. A page may be given twice.
    ///
    /// # Errors
    /// As for [`harvest`](Self::harvest).
    fn harvest_in_parts(
        &mut self,
        into: &mut PageBitmap,
        part: &mut dyn FnMut(&PageBitmap),
    ) -> Result<(), DirtyError> {
        let _ = part;
        self.harvest(into)
    }

    /// `pages` are populated, and are sent at first although no harvest has reported them: told once
    /// after arming, before any of them is read. What becomes of them from then on is seen.
    ///
    /// For sources that look at parts of the memory only, and after discarded pages.
    ///
    /// # Errors
    /// When the kernel fails.
    fn note_populated(&mut self, pages: &PageBitmap) -> Result<(), DirtyError> {
        let _ = pages;
        Ok(())
    }

    /// Harvests by at most `threads` threads from now on, where that is of use. Without this it is as
    /// many as there are processors.
    ///
    /// # Errors
    /// When the kernel fails.
    fn set_scan_threads(&mut self, threads: NonZeroUsize) -> Result<(), DirtyError> {
        let _ = threads;
        Ok(())
    }

    /// How many pages each vCPU has written since arming, in the order of their index; a page
    /// that is written again after a harvest counts again. `None`: who writes is not known.
    ///
    /// For sources that have a log of each vCPU, such as KVM's dirty rings.
    fn written_by(&mut self) -> Option<Vec<u64>> {
        None
    }

    /// What clears the marks of pages before they are read, if a harvest leaves them. `None`:
    /// a harvest clears them.
    ///
    /// A page that was harvested stays marked, and is not reported again, until it is cleared;
    /// then it is read, and what is read has every write of before. Asked once, before arming.
    fn clear_before_read(&self) -> Option<Arc<dyn ClearMarks>> {
        None
    }

    /// Takes back pages that were harvested but did not reach the target: the next harvest
    /// reports them again.
    fn give_back(&mut self, pages: &PageBitmap);

    /// Stops tracking; the guest pays no more faults. Also done on drop.
    fn disarm(&mut self);
}
