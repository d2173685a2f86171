//! Writing to files on hugetlbfs, which have no write(2) and must be mapped.
//!
//! Touching a huge page that the pool cannot supply kills the process with SIGBUS. So each page
//! is populated with MADV_POPULATE_WRITE before the first copy into it, which reports the
//! shortage as an error (madvise(2)), and never given back. Somebody who truncates the file, or
//! punches holes into it, while it is written can still cause a SIGBUS: do not.

#![allow(unsafe_code, reason = "the file must be mapped")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::fstatfs;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::copy;

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

/// A region of a file on hugetlbfs, mapped for writing.
#[derive(Debug)]
pub(super) struct HugeWriter {
    start: *mut c_void,
    len_bytes: usize,
    page_bytes: usize,
    /// For each huge page, whether it is known to be populated.
    populated: Vec<AtomicBool>,
}

// SAFETY: the mapping belongs to this value and is only accessed in ways that may run at the
// same time on several threads (see `copy`).
unsafe impl Send for HugeWriter {}
// SAFETY: as above.
unsafe impl Sync for HugeWriter {}

impl HugeWriter {
    /// Maps `len_bytes` bytes of `file` from `offset` on, both multiples of `page_bytes`.
    ///
    /// Reserves nothing: holes of the guest's memory need not be backed by the pool.
    pub(super) fn new(
        file: &File,
        offset: u64,
        len_bytes: u64,
        page_bytes: usize,
    ) -> io::Result<Self> {
        let len_bytes = usize::try_from(len_bytes).map_err(io::Error::other)?;
        if len_bytes % page_bytes != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the region is not a multiple of its huge pages of {page_bytes} bytes"),
            ));
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let mapped = unsafe { mmap(null_mut(), len_bytes, prot, flags, file, offset) };
        let start = match mapped {
            Ok(start) => start,
            // Opened for reading only: a source, which never writes.
            Err(Errno::ACCESS) => null_mut(),
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self {
            start,
            len_bytes,
            page_bytes,
            populated: (0..len_bytes / page_bytes)
                .map(|_| AtomicBool::new(false))
                .collect(),
        })
    }

    /// Copies `data` to byte `offset` of the region.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.start.is_null() {
            return Err(Errno::ACCESS.into());
        }
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start
            .checked_add(data.len())
            .filter(|end| *end <= self.len_bytes)
            .ok_or(Errno::INVAL)?;
        for page in start / self.page_bytes..end.div_ceil(self.page_bytes) {
            self.populate(page)?;
        }
        // SAFETY: within the mapping, whose pages are there. Other accesses are those of `copy`,
        // or come from other processes.
        unsafe { copy::store(data, self.start.cast::<u8>().add(start)) };
        Ok(())
    }

    fn populate(&self, page: usize) -> io::Result<()> {
        let populated = &self.populated[page];
        if populated.load(Ordering::Relaxed) {
            return Ok(());
        }
        // SAFETY: within the mapping; populating changes no content.
        let result = unsafe {
            let at = self.start.byte_add(page * self.page_bytes);
            madvise(at, self.page_bytes, Advice::LinuxPopulateWrite)
        };
        match result {
            Ok(()) => {
                populated.store(true, Ordering::Relaxed);
                Ok(())
            }
            // madvise(2): "population failed because a fault would have ended in SIGBUS".
            Err(Errno::FAULT | Errno::NOMEM) => Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "no huge page is free; raise vm.nr_hugepages",
            )),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for HugeWriter {
    fn drop(&mut self) {
        if self.start.is_null() {
            return;
        }
        // SAFETY: nobody else has the address. Fails only for a range that is no mapping.
        let _ = unsafe { munmap(self.start, self.len_bytes) };
    }
}
