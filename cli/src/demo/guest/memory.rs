//! The memory of the demo's guest: a memfd, mapped into this process.
//!
//! The vCPUs write it through the mapping, as a guest's store instructions would; the engine reads
//! the file.

#![allow(
    unsafe_code,
    reason = "the vCPUs write a shared mapping, as a guest does"
)]

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result};
use pagelift_engine::memory::{MapPages, ReadPages, SharedMemory};
use pagelift_engine::units::{PAGE_BYTES, PageCount};
use pagelift_engine::{FileMemory, GuestRam};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::demo::pattern::Script;

/// Memory in a memfd, mapped into this process.
#[derive(Debug)]
pub struct DemoMemory {
    memory: Arc<SharedMemory>,
    bytes: usize,
}

impl DemoMemory {
    /// Fresh memory of `pages` pages, all zero.
    ///
    /// # Errors
    /// When the kernel has none.
    pub fn new(pages: u64) -> Result<Self> {
        let fd = memfd_create(c"pagelift-demo", MemfdFlags::CLOEXEC).context("memfd_create")?;
        let file = File::from(fd);
        file.set_len(PageCount(pages).bytes().0)
            .context("sizing the guest's memory")?;
        let memory = SharedMemory::map(FileMemory::whole(file)?)?;
        Ok(Self {
            bytes: memory.layout().pages().bytes().0 as usize,
            memory: Arc::new(memory),
        })
    }

    /// The memory, and what tracks the writes of this process to it.
    ///
    /// # Errors
    /// When writes cannot be tracked.
    pub fn ram(&self) -> Result<GuestRam> {
        GuestRam::shared(self.view()).context("cannot track what the guest writes")
    }

    /// The engine's view of the memory.
    pub fn view(&self) -> Arc<SharedMemory> {
        Arc::clone(&self.memory)
    }

    /// Writes words at byte `offset` of `page`, as a guest's store instructions would.
    pub(super) fn store(&self, page: u64, offset: usize, words: impl Iterator<Item = u64>) {
        let start = self.memory.region_start(0);
        let at = page as usize * PAGE_BYTES + offset;
        for (index, word) in words.enumerate() {
            let byte = at + index * 8;
            assert!(byte + 8 <= self.bytes, "a write within the guest's memory");
            // SAFETY: within the mapping, which lives as long as `self`; 8-byte aligned, since
            // the mapping, the page and the offset are. Volatile: the engine reads it meanwhile.
            unsafe { start.add(byte).cast::<u64>().write_volatile(word) };
        }
    }

    /// Gives every page its content of the start.
    pub fn fill(&self, script: &Script) {
        for page in 0..script.filled_pages {
            self.store(page, 0, script.initial_words(page));
        }
    }
}
