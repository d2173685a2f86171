//! Regions of files on hugetlbfs, which have no write(2) and must be mapped to be written.
//!
//! Touching a huge page that the pool cannot supply kills the process with SIGBUS. So each page
//! is populated with MADV_POPULATE_WRITE before the first copy into it, which reports the
//! shortage as an error (madvise(2)). Somebody else who truncates the file, or punches holes into
//! it, while it is written can still cause a SIGBUS: do not.

#![allow(unsafe_code, reason = "the file must be mapped")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Advice, MmapRaw};
use rustix::fs::fstatfs;
use rustix::io::Errno;

use super::place::RegionFile;
use crate::memory::copy;

/// The size of a page of `file` if it is on hugetlbfs; statfs(2).
pub(super) fn huge_page_bytes(file: &File) -> io::Result<Option<usize>> {
    let filesystem = fstatfs(file)?;
    if filesystem.f_type as u64 & 0xffff_ffff != u64::from(linux_raw_sys::general::HUGETLBFS_MAGIC)
    {
        return Ok(None);
    }
    usize::try_from(filesystem.f_bsize)
        .map(Some)
        .map_err(io::Error::other)
}

/// A region in huge pages. Byte offsets are counted from its start.
#[derive(Debug)]
pub(super) struct HugePages {
    /// All of it; `None` if the file was opened for reading only: a source, which never writes.
    map: Option<MmapRaw>,
    page_bytes: usize,
    /// For each huge page, whether it is known to be populated.
    populated: Vec<AtomicBool>,
}

impl HugePages {
    /// The region of `len_bytes` bytes at `place`, if that is on hugetlbfs.
    pub(super) fn of(place: &RegionFile, len_bytes: u64) -> io::Result<Option<Self>> {
        let Some(page_bytes) = huge_page_bytes(&place.file)? else {
            return Ok(None);
        };
        if !len_bytes.is_multiple_of(page_bytes as u64) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the region is not a multiple of its huge pages of {page_bytes} bytes"),
            ));
        }
        let map = match place.map(len_bytes) {
            Ok(map) => Some(map),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            Err(error) => return Err(error),
        };
        let pages = len_bytes / page_bytes as u64;
        Ok(Some(Self {
            map,
            page_bytes,
            populated: (0..pages).map(|_| AtomicBool::new(false)).collect(),
        }))
    }

    /// Copies `data` to byte `offset`.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let map = self.map.as_ref().ok_or(Errno::ACCESS)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start
            .checked_add(data.len())
            .filter(|end| *end <= map.len())
            .ok_or(Errno::INVAL)?;
        for page in self.pages(start..end) {
            self.populate(map, page)?;
        }
        // SAFETY: within the mapping, whose pages are there. Other accesses are those of `copy`,
        // or come from other processes.
        unsafe { copy::store(data, map.as_mut_ptr().add(start)) };
        Ok(())
    }

    /// Huge pages that lie in `len_bytes` bytes from `offset` on are there no more.
    pub(super) fn discarded(&self, offset: u64, len_bytes: u64) {
        let (start, end) = (offset as usize, (offset + len_bytes) as usize);
        for page in self.pages(start..end) {
            self.populated[page].store(false, Ordering::Relaxed);
        }
    }

    /// The huge pages that `bytes` touches.
    fn pages(&self, bytes: Range<usize>) -> Range<usize> {
        bytes.start / self.page_bytes..bytes.end.div_ceil(self.page_bytes)
    }

    fn populate(&self, map: &MmapRaw, page: usize) -> io::Result<()> {
        let populated = &self.populated[page];
        if populated.load(Ordering::Relaxed) {
            return Ok(());
        }
        let advised = map.advise_range(
            Advice::PopulateWrite,
            page * self.page_bytes,
            self.page_bytes,
        );
        match advised {
            Ok(()) => {
                populated.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => match Errno::from_io_error(&error) {
                // madvise(2): "population failed because a fault would have ended in SIGBUS".
                Some(Errno::FAULT | Errno::NOMEM) => Err(io::Error::new(
                    io::ErrorKind::OutOfMemory,
                    "no huge page is free; raise vm.nr_hugepages",
                )),
                _ => Err(error),
            },
        }
    }
}
