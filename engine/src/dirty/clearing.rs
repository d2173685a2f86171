//! Reading pages whose dirty marks are cleared only now.

use std::io;
use std::sync::Arc;

use crate::memory::{Layout, MemoryError, PageBitmap, ReadPages};
use crate::units::PageRange;

/// Clears the dirty marks of pages that are about to be read, for a source whose harvest leaves them:
/// KVM's log with manual protection, for one, which so protects pages in pieces, when they are
/// read, and not all at once with its lock held.
///
/// Called by all data channels at once.
pub trait ClearMarks: Send + Sync {
    /// Clears the marks of the pages of `range`: a write that comes after this returns sets them
    /// again, and is harvested.
    ///
    /// # Errors
    /// When the kernel fails. The pages are then not read, and the migration ends.
    fn clear(&self, range: PageRange) -> io::Result<()>;
}

/// A guest's memory as the data channels read it: each page's mark is cleared first.
pub(crate) struct ClearedPages {
    pub(crate) memory: Arc<dyn ReadPages>,
    pub(crate) marks: Arc<dyn ClearMarks>,
}

impl ReadPages for ClearedPages {
    fn layout(&self) -> &Layout {
        self.memory.layout()
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        self.marks.clear(range).map_err(|source| {
            let span = self.layout().spans(range).next();
            let region = span.map(|span| self.layout().regions()[span.region].name.clone());
            MemoryError::Io {
                action: "clear the dirty marks of",
                region: region.unwrap_or_default(),
                offset: span.map_or(0, |span| span.offset),
                source,
            }
        })?;
        self.memory.read(range, out)
    }

    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError> {
        self.memory.populated(into)
    }
}
