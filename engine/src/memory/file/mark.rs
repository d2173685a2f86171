//! Placing and finding [marks](Mark) in files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::region::FileRegion;
use crate::memory::mark::{Mark, PlacedMark};
use crate::memory::{Layout, MemoryError};
use crate::units::PAGE_BYTES;

/// A mark behind the end of a file.
#[derive(Debug)]
struct FileMark {
    file: File,
    /// How long the file was, and is to be.
    len_bytes: u64,
    mark: Mark,
    /// Whether the file is longer than it was.
    is_placed: bool,
    region: String,
}

impl FileMark {
    fn place(file: &File, word: u64, region: &str) -> io::Result<Self> {
        let file = file.try_clone()?;
        let len_bytes = file.metadata()?.len();
        let offset = len_bytes.next_multiple_of(8);
        let mut mark = Self {
            len_bytes,
            mark: Mark { offset, word },
            is_placed: false,
            region: region.to_owned(),
            file,
        };
        mark.file.set_len(len_bytes + PAGE_BYTES as u64)?;
        mark.is_placed = true;
        mark.file.write_all_at(&word.to_le_bytes(), offset)?;
        // For those who see the file over a network.
        mark.file.sync_data()?;
        Ok(mark)
    }

    fn remove(&mut self) -> io::Result<()> {
        self.is_placed = false;
        // What somebody else has made of the file is not cut off.
        if self.file.metadata()?.len() != self.len_bytes + PAGE_BYTES as u64 {
            return Err(io::Error::other("somebody else has changed its length"));
        }
        self.file.set_len(self.len_bytes)
    }
}

impl PlacedMark for FileMark {
    fn mark(&self) -> Mark {
        self.mark
    }

    fn take_back(mut self: Box<Self>) -> Result<(), MemoryError> {
        self.remove().map_err(|source| MemoryError::Io {
            action: "take a mark from",
            region: self.region.clone(),
            offset: self.mark.offset,
            source,
        })
    }
}

impl Drop for FileMark {
    fn drop(&mut self) {
        if self.is_placed {
            // It ends in an error of its own that this is dropped.
            let _ = self.remove();
        }
    }
}

/// Places a mark in the file of region number `region`.
pub(super) fn place(
    layout: &Layout,
    regions: &[FileRegion],
    region: usize,
    word: u64,
) -> Result<Box<dyn PlacedMark>, MemoryError> {
    let name = &layout.regions()[region].name;
    let placed = FileMark::place(regions[region].file(), word, name);
    let placed = placed.map_err(|source| {
        let what = format!(
            "{source}; without that, whether the source has the same file cannot be told: give the \
             target a RAM file on a tmpfs"
        );
        layout.refused("mark", region, 0, io::Error::new(source.kind(), what))
    })?;
    Ok(Box::new(placed))
}

/// Whether `mark` is in a file of `regions`.
pub(super) fn shows(
    layout: &Layout,
    regions: &[FileRegion],
    mark: Mark,
) -> Result<bool, MemoryError> {
    for (number, region) in regions.iter().enumerate() {
        let found = shows_in(region.file(), mark);
        if found.map_err(|source| layout.refused("look for a mark in", number, 0, source))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn shows_in(file: &File, mark: Mark) -> io::Result<bool> {
    let mut word = [0; 8];
    match file.read_exact_at(&mut word, mark.offset) {
        Ok(()) => Ok(u64::from_le_bytes(word) == mark.word),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
