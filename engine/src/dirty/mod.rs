//! Where the set of written pages comes from.
//!
//! A [`DirtySource`] answers one question: which pages were written since it was last asked?
//! The rule that keeps every write: **a mark is cleared before its page is read**
//! ([`harvest`](DirtySource::harvest) returns only after the marks are cleared), so a write that
//! comes later marks the page again.

mod manual;
mod pagemap;
mod private;

pub use manual::{DirtyMarker, ManualTracker, VcpuMarker};
pub use pagemap::{PagemapTracker, TrackedRange};

use crate::memory::PageBitmap;
use crate::units::PageCount;

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
    /// marks have been cleared.
    ///
    /// # Errors
    /// When the kernel fails; `into` may then hold a part of the set.
    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError>;

    /// How many pages were written since the last harvest (or since arming), with their marks
    /// left as they are. `None`: that cannot be told, or not without cost to the guest.
    ///
    /// # Errors
    /// When the kernel fails; no mark is lost.
    fn look(&mut self) -> Result<Option<PageCount>, DirtyError> {
        Ok(None)
    }

    /// How many pages each vCPU has written since arming, in the order of their index; a page
    /// that is written again after a harvest counts again. `None`: who writes is not known.
    ///
    /// For sources that have a log of each vCPU, such as KVM's dirty rings.
    fn written_by(&mut self) -> Option<Vec<u64>> {
        None
    }

    /// Takes back pages that were harvested but did not reach the target: the next harvest
    /// reports them again.
    fn give_back(&mut self, pages: &PageBitmap);

    /// Stops tracking; the guest pays no more faults. Also done on drop.
    fn disarm(&mut self);
}
