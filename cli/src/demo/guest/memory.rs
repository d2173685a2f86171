//! The memory of the demo's guest: a memfd, mapped once into this process.
//!
//! The vCPUs write it through the mapping, as a guest's store instructions would; the engine reads
//! the file.

#![allow(
    unsafe_code,
    reason = "the vCPUs write a shared mapping, as a guest does"
)]

use std::fs::File;
use std::ptr::NonNull;

use anyhow::{Context, Result};
use pagelift_engine::units::PAGE_BYTES;
use pagelift_engine::{FileMemory, GuestRam};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::demo::pattern::Script;

/// Memory in a memfd, mapped once into this process.
#[derive(Debug)]
pub struct GuestMemory {
    file: File,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is shared memory that any thread may write; all accesses are volatile, and
// no reference to its content is ever made.
unsafe impl Send for GuestMemory {}
// SAFETY: as for `Send`.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Fresh memory of `pages` pages, all zero.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn new(pages: u64) -> Result<Self> {
        let bytes = usize::try_from(pages)? * PAGE_BYTES;
        let fd = memfd_create(c"pagelift-demo", MemfdFlags::CLOEXEC).context("memfd_create")?;
        ftruncate(&fd, bytes as u64).context("sizing the guest's memory")?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                MapFlags::SHARED,
                &fd,
                0,
            )
        };
        let start = start.context("mapping the guest's memory")?;
        let start = NonNull::new(start.cast()).context("the kernel mapped page zero")?;
        Ok(Self {
            file: fd.into(),
            start,
            bytes,
        })
    }

    /// The memory, and what tracks the writes of this process to it.
    ///
    /// # Errors
    /// When the file cannot be used, or writes cannot be tracked.
    pub fn ram(&self) -> Result<GuestRam> {
        let file = self.file.try_clone()?;
        GuestRam::from_file(file, self.start.as_ptr()).context("cannot track what the guest writes")
    }

    /// The engine's view of the memory.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn view(&self) -> Result<FileMemory> {
        Ok(FileMemory::whole(self.file.try_clone()?)?)
    }

    /// Writes words at byte `offset` of `page`, as a guest's store instructions would.
    pub(super) fn store(&self, page: u64, offset: usize, words: impl Iterator<Item = u64>) {
        let at = page as usize * PAGE_BYTES + offset;
        for (index, word) in words.enumerate() {
            let byte = at + index * 8;
            assert!(byte + 8 <= self.bytes, "a write within the guest's memory");
            // SAFETY: within the mapping, which lives as long as `self`; 8-byte aligned, since
            // the mapping, the page and the offset are. Volatile: the engine reads it meanwhile.
            unsafe {
                self.start
                    .as_ptr()
                    .add(byte)
                    .cast::<u64>()
                    .write_volatile(word);
            };
        }
    }

    /// Gives every page its content of the start.
    pub fn fill(&self, script: &Script) {
        for page in 0..script.filled_pages {
            self.store(page, 0, script.initial_words(page));
        }
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the vCPUs hold a reference to `self` while they run.
        // A failure would leave it mapped until the process ends.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
