//! Capabilities of a guest's memory beyond being read and written.
//!
//! Each is asked for at [`GuestMemory`](super::GuestMemory) or [`ReadPages`]; `None` means that this memory cannot do
//! it, so that whoever needs it finds out before a migration begins.

use std::io;

use super::identity::KnownFile;
use super::mark::{Mark, PlacedMark};
use super::{MemoryError, ReadPages, Span};
use crate::sys::{self, SysError};
use crate::units::{PageCount, PageIndex, PageRange};

/// Pages have addresses in this process: for devices that access memory by themselves, and so that
/// pages can be kept from being swapped out.
pub trait MapPages: ReadPages {
    /// Where region number `region` begins. All of it is mapped from there on, in one piece, readable
    /// and writable, for as long as the memory lives.
    ///
    /// No Rust reference may be made to what is there, since the guest may write it at any time.
    /// Reading a page of a shared file that was never populated populates it: whoever only copies
    /// pages uses [`read`](ReadPages::read), which does not.
    ///
    /// # Panics
    /// If the layout has no such region.
    fn region_start(&self, region: usize) -> *mut u8;

    /// Populates the pages of `range` and keeps them in memory (mlock(2)) until they are unpinned, or
    /// no longer mapped. Costs the population of what was not there; whoever wants to show progress
    /// pins piece by piece.
    ///
    /// # Errors
    /// When the range leaves the layout, there is not so much memory, or RLIMIT_MEMLOCK does not
    /// allow it; the message then says how much is allowed, and how to raise it. A part of the
    /// range may be pinned.
    fn pin(&self, range: PageRange) -> Result<(), MemoryError> {
        at_each_span(self, "pin", range, sys::lock_memory)
    }

    /// Lets the pages of `range` be swapped out again, however often they were pinned.
    ///
    /// # Errors
    /// When the range leaves the layout.
    fn unpin(&self, range: PageRange) -> Result<(), MemoryError> {
        at_each_span(self, "unpin", range, sys::unlock_memory)
    }
}

/// Calls `what` with the address and length of each span of `range`.
fn at_each_span(
    memory: &(impl MapPages + ?Sized),
    action: &'static str,
    range: PageRange,
    what: fn(*mut u8, usize) -> Result<(), SysError>,
) -> Result<(), MemoryError> {
    let layout = memory.layout();
    for Span {
        region,
        offset,
        range,
    } in layout.checked_spans(range)?
    {
        let start = memory.region_start(region).wrapping_add(offset as usize);
        what(start, range.len_bytes())
            .map_err(|error| layout.refused(action, region, offset, io::Error::other(error)))?;
    }
    Ok(())
}

/// A page can be placed only where none is yet: for pages that come by more than one way while the
/// guest runs, as in post-copy.
pub trait PlaceAbsent: Send + Sync {
    /// Places those of the pages in `data`, from page `first` on, that are absent, each in one step:
    /// whoever else places or writes it has either been before, and the page is left alone, or
    /// comes after. Gives the number that was placed.
    ///
    /// Absent is a page that was never populated, or was [discarded](DiscardPages).
    ///
    /// # Errors
    /// As for [`GuestMemory::write`](super::GuestMemory::write).
    fn place(&self, first: PageIndex, data: &[u8]) -> Result<PageCount, MemoryError>;
}

/// The memory of pages can be given back.
pub trait DiscardPages: Send + Sync {
    /// Makes the pages of `range` absent: they read as zeros and take no memory. Where the memory is
    /// in huge pages, only whole ones are; of others the content is zeroed.
    ///
    /// Not for pages that a device has pinned: it would go on with the old ones.
    ///
    /// # Errors
    /// When the range leaves the layout, or the kernel refuses: pages are pinned, or the file system
    /// cannot do it.
    fn discard(&self, range: PageRange) -> Result<(), MemoryError>;
}

/// The memory lies in files that tell where they hold data.
///
/// Data is what was ever written, through any mapping or by any process, be it in memory or swapped
/// out, and was not discarded since.
pub trait FindData: Send + Sync {
    /// Whether the file of `pages`, all of one region, tells exactly, at any moment, where it holds data.
    fn tells_data(&self, pages: PageRange) -> bool;

    /// The first of `pages`, all of one region, that holds data. Costs a microsecond, however many
    /// hold none.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn first_data(&self, pages: PageRange) -> Result<Option<PageIndex>, MemoryError>;

    /// Calls `found` for each run of `pages`, all of one region, that holds data; for all where that
    /// cannot be told. Costs 50 ns per page that does.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn for_each_data(
        &self,
        pages: PageRange,
        found: &mut dyn FnMut(PageRange),
    ) -> Result<(), MemoryError>;
}

/// The memory lies in files, which the other side of a migration may have as well.
pub trait InFiles: Send + Sync {
    /// The files, each once.
    fn files(&self) -> Vec<KnownFile>;

    /// Writes `word` behind the end of file number `file`.
    ///
    /// # Errors
    /// When the file cannot be made longer.
    ///
    /// # Panics
    /// If there is no such file.
    fn place_mark(&self, file: usize, word: u64) -> Result<Box<dyn PlacedMark>, MemoryError>;

    /// Whether a mark that the other side has placed is in one of the files.
    ///
    /// # Errors
    /// When a file cannot be read.
    fn shows(&self, mark: Mark) -> Result<bool, MemoryError>;
}
