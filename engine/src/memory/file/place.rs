//! The place of a region's memory: a file, and an offset in it.

use std::fs::File;
use std::io;

use memmap2::{MmapOptions, MmapRaw};

/// Where the memory of one region is.
#[derive(Debug)]
pub struct RegionFile {
    /// The file, opened for reading, and for writing on a target.
    pub file: File,
    /// Byte offset of the region in it; a multiple of the page size of its file system.
    pub offset: u64,
}

impl RegionFile {
    /// Maps `len_bytes` bytes of it, for reading and writing, shared with all that map the file.
    ///
    /// Reserves nothing: holes of the guest's memory need not be backed.
    pub(super) fn map(&self, len_bytes: u64) -> io::Result<MmapRaw> {
        let len_bytes = usize::try_from(len_bytes).map_err(io::Error::other)?;
        let mut options = MmapOptions::new();
        options.offset(self.offset).len(len_bytes).no_reserve_swap();
        options.map_raw(&self.file)
    }
}
