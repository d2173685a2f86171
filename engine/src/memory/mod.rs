//! The guest's memory: its [layout](Layout), [sets of its pages](PageBitmap), and access to
//! the content of pages through [`ReadPages`] and [`GuestMemory`].
//!
//! | memory | kind | can besides |
//! |---|---|---|
//! | [`FileMemory`] | shared files, by system calls | place absent pages (tmpfs), discard |
//! | [`SharedMemory`] | the same, mapped into this process as well | as above, map and pin |
//! | [`MappedMemory`] | anonymous private memory of this process | map and pin, discard, place absent pages (with a userfaultfd) |
//!
//! Guest memory is never a `&[u8]` here: the guest writes it while it is read. A page is copied
//! once into a buffer of ours, and only the copy is looked at. A copy that was torn by a
//! concurrent write is harmless, because that write has marked the page dirty again.

mod bitmap;
mod buffer;
mod capability;
mod copy;
mod file;
mod identity;
mod in_place;
mod layout;
mod mapped;
mod mark;
mod shared;
mod spans;

pub use bitmap::PageBitmap;
pub(crate) use bitmap::blocks_of;
pub use buffer::PageBuffer;
pub use capability::{DiscardPages, FindData, InFiles, MapPages, PlaceAbsent};
pub use file::{FileMemory, RegionFile};
pub use identity::{FileIdentity, KnownFile, PersistentFile, Reach, Sameness};
pub(crate) use in_place::InPlaceMemory;
pub use layout::{Layout, LayoutError, MAX_REGIONS, Region, Span};
pub use mapped::MappedMemory;
pub use mark::{Mark, PlacedMark};
pub use shared::SharedMemory;

use crate::units::{PageIndex, PageRange};

/// Why guest memory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The kernel refused: a full tmpfs, a truncated file, exhausted huge pages.
    #[error("cannot {action} {region} at byte {offset}: {source}")]
    Io {
        /// What was tried: `read`, `write`, `populate`, ...
        action: &'static str,
        /// The region's name.
        region: String,
        /// Byte offset inside the region.
        offset: u64,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The regions make no layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The pages do not lie within the layout.
    #[error("pages {first}..{end} are outside the guest's memory of {pages} pages")]
    OutOfRange {
        /// First page asked for.
        first: u64,
        /// Page after the last one asked for.
        end: u64,
        /// Pages in the layout.
        pages: u64,
    },
}

/// Pages that can be read, such as those of a guest that may be running.
pub trait ReadPages: Send + Sync {
    /// The regions this memory consists of.
    fn layout(&self) -> &Layout;

    /// Copies the pages of `range` into `out`, whose length is exactly theirs.
    ///
    /// Reading never populates memory that was never written: such pages read as zero.
    ///
    /// # Errors
    /// When the range leaves the layout or the kernel refuses.
    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError>;

    /// Adds to `into` the pages that may hold anything but zeros.
    ///
    /// Pages left out were never populated, and are not read by a migration at all.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError>;

    /// The files that it lies in, if it does: to find out whether the other side has the same.
    fn in_files(&self) -> Option<&dyn InFiles> {
        None
    }

    /// Where these files hold data.
    fn find_data(&self) -> Option<&dyn FindData> {
        None
    }
}

/// A guest's memory: its pages can be read and, while the guest does not run, written.
///
/// A migration's target is given this; its source and everything else that only reads is given
/// the [`ReadPages`] of it. What a memory can do beyond that is asked for: `None` means that it
/// cannot.
pub trait GuestMemory: ReadPages {
    /// Places `data`, whole pages, from page `first` on.
    ///
    /// # Errors
    /// When the range leaves the layout, or the kernel has no room.
    fn write(&self, first: PageIndex, data: &[u8]) -> Result<(), MemoryError>;

    /// Makes the pages of `range` read as zeros.
    ///
    /// Pages that were never populated stay so: they cost nothing.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    fn write_zeros(&self, range: PageRange) -> Result<(), MemoryError>;

    /// Addresses of pages in this process.
    fn map_pages(&self) -> Option<&dyn MapPages> {
        None
    }

    /// Placing pages where none are yet.
    fn place_absent(&self) -> Option<&dyn PlaceAbsent> {
        None
    }

    /// Giving the memory of pages back.
    fn discard_pages(&self) -> Option<&dyn DiscardPages> {
        None
    }
}
