//! Guest memory in shared files that this process has mapped as well.
//!
//! Copying still goes through the files: reading a hole through the mapping would populate it, page
//! tables do not show what others have put into the file, and a file that is cut off would end in
//! a SIGBUS (docs/decisions/001). The mapping is for whoever needs addresses: to have the pages
//! written by a device, or pinned.

use std::sync::Arc;

use memmap2::MmapRaw;

use super::{
    DiscardPages, FileMemory, FindData, GuestMemory, InFiles, Layout, MapPages, MemoryError,
    PageBitmap, PlaceAbsent, ReadPages,
};
use crate::units::{PageIndex, PageRange};

/// A [`FileMemory`] whose pages have addresses in this process.
#[derive(Debug)]
pub struct SharedMemory {
    files: Arc<FileMemory>,
    /// Each region.
    maps: Vec<MmapRaw>,
}

impl SharedMemory {
    /// Maps all regions of `files`. Populates nothing, and reserves nothing.
    ///
    /// # Errors
    /// When a file was not opened for reading and writing, or the address space has no room.
    pub fn map(files: impl Into<Arc<FileMemory>>) -> Result<Self, MemoryError> {
        let files = files.into();
        let maps = files.map_regions()?;
        Ok(Self { files, maps })
    }
}

impl ReadPages for SharedMemory {
    fn layout(&self) -> &Layout {
        self.files.layout()
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        self.files.read(range, out)
    }

    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError> {
        self.files.populated(into)
    }

    fn in_files(&self) -> Option<&dyn InFiles> {
        self.files.in_files()
    }

    fn find_data(&self) -> Option<&dyn FindData> {
        self.files.find_data()
    }
}

impl GuestMemory for SharedMemory {
    fn write(&self, first: PageIndex, data: &[u8]) -> Result<(), MemoryError> {
        self.files.write(first, data)
    }

    fn write_zeros(&self, range: PageRange) -> Result<(), MemoryError> {
        self.files.write_zeros(range)
    }

    fn map_pages(&self) -> Option<&dyn MapPages> {
        Some(self)
    }

    fn place_absent(&self) -> Option<&dyn PlaceAbsent> {
        self.files.place_absent()
    }

    fn discard_pages(&self) -> Option<&dyn DiscardPages> {
        self.files.discard_pages()
    }
}

impl MapPages for SharedMemory {
    fn region_start(&self, region: usize) -> *mut u8 {
        self.maps[region].as_mut_ptr()
    }
}
