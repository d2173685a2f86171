//! A guest's RAM as a migration takes it: its memory, and what tracks the writes to it.
//!
//! [`GuestRam`] puts the two together for the usual cases, so that the pages a tracker reports are
//! those of the memory's layout. A target needs no tracking, and takes a [`GuestMemory`] alone.

#![allow(unsafe_code, reason = "mapped memory is given by its address")]

use std::fs::File;
use std::sync::Arc;

use rustix::process::Pid;

use crate::dirty::{
    Combined, DirtyError, DirtySource, DiscardSwitch, DiscardTracker, PagemapTracker, TrackedRange,
};
use crate::memory::{
    FileMemory, GuestMemory, Layout, MapPages, MappedMemory, MemoryError, ReadPages, SharedMemory,
};
use crate::sys::Userfaultfd;

/// The memory of a guest that is to leave, and the source of its dirty pages.
pub struct GuestRam {
    memory: Arc<dyn GuestMemory>,
    dirty: Box<dyn DirtySource>,
}

impl std::fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestRam")
            .field("layout", self.layout())
            .finish_non_exhaustive()
    }
}

/// Why a guest's RAM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// Its memory cannot be read or written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The writes to it cannot be tracked.
    #[error("dirty tracking: {0}")]
    Dirty(#[from] DirtyError),
}

impl GuestRam {
    /// Memory and tracking of any kind. `dirty` numbers pages as the layout of `memory` does, and
    /// sees every write to it.
    pub fn new(memory: Arc<dyn GuestMemory>, dirty: Box<dyn DirtySource>) -> Self {
        Self { memory, dirty }
    }

    /// Regions in files that `memory` has mapped into this process.
    ///
    /// Tracked are the writes through its mappings.
    ///
    /// # Errors
    /// When this process cannot have a userfaultfd.
    pub fn shared(memory: Arc<SharedMemory>) -> Result<Self, RamError> {
        let regions = 0..memory.layout().regions().len();
        let starts = regions.map(|region| memory.region_start(region).addr() as u64);
        let ranges = tracked(memory.layout(), starts);
        let tracker = PagemapTracker::of_this_process(ranges)?.with_memory(memory.clone());
        Ok(Self::new(memory, Box::new(tracker)))
    }

    /// All of `file`, as one region named `ram`, that this process has mapped as shared memory
    /// from `address` on.
    ///
    /// Tracked are the writes through that mapping.
    ///
    /// # Errors
    /// When the file is no memory of whole pages, or this process cannot have a userfaultfd.
    pub fn from_file(file: File, address: *const u8) -> Result<Self, RamError> {
        Self::from_files(FileMemory::whole(file)?, &[address])
    }

    /// Regions in files that this process has mapped as shared memory: each from its one of
    /// `addresses` on.
    ///
    /// # Errors
    /// When this process cannot have a userfaultfd.
    ///
    /// # Panics
    /// If there is not one address for each region.
    pub fn from_files(memory: FileMemory, addresses: &[*const u8]) -> Result<Self, RamError> {
        let addresses = addresses.iter().map(|address| address.addr() as u64);
        let ranges = tracked(memory.layout(), addresses);
        let memory = Arc::new(memory);
        let tracker = PagemapTracker::of_this_process(ranges)?.with_memory(memory.clone());
        Ok(Self::new(memory, Box::new(tracker)))
    }

    /// Regions in files that process `pid` has mapped as shared memory, each from its one of
    /// `addresses` on. `uffd` is a userfaultfd that this process was lent, and nobody has agreed
    /// on its features.
    ///
    /// # Errors
    /// When the kernel cannot track the memory, or the process may not be looked at.
    ///
    /// # Panics
    /// If there is not one address for each region.
    pub fn of_process(
        pid: Pid,
        uffd: Userfaultfd,
        memory: FileMemory,
        addresses: &[u64],
    ) -> Result<Self, RamError> {
        uffd.enable_async_write_protect()
            .map_err(DirtyError::from)?;
        let ranges = tracked(memory.layout(), addresses.iter().copied());
        let memory = Arc::new(memory);
        let tracker = PagemapTracker::new(Some(pid), uffd, ranges)?.with_memory(memory.clone());
        Ok(Self::new(memory, Box::new(tracker)))
    }

    /// As [`of_process`](Self::of_process), for a process that may discard pages of its RAM (free page
    /// reporting, `MADV_REMOVE`, `fallocate`, `ftruncate`): they arrive as zeros, once `switch` is on.
    /// See [`DiscardTracker`] for what that costs.
    ///
    /// # Errors
    /// As there; not for memory of huge pages, whose holes cannot be told.
    ///
    /// # Panics
    /// As there.
    pub fn of_discarding_process(
        pid: Pid,
        uffd: Userfaultfd,
        memory: FileMemory,
        addresses: &[u64],
        switch: DiscardSwitch,
    ) -> Result<Self, RamError> {
        uffd.enable_async_write_protect()
            .map_err(DirtyError::from)?;
        let ranges = tracked(memory.layout(), addresses.iter().copied());
        let memory = Arc::new(memory);
        let discards = DiscardTracker::new(Some(pid), Arc::clone(&memory), ranges.clone(), switch)?;
        let written = PagemapTracker::new(Some(pid), uffd, ranges)?.with_memory(memory.clone());
        // Holes are looked for after what was written is known.
        let dirty = Combined::new(Box::new(written), Box::new(discards));
        Ok(Self::new(memory, Box::new(dirty)))
    }

    /// Regions in anonymous private memory of this process, each from its one of `starts` on.
    ///
    /// # Errors
    /// When this process cannot have a userfaultfd.
    ///
    /// # Panics
    /// As [`MappedMemory::new`].
    ///
    /// # Safety
    /// As for [`MappedMemory::new`].
    pub unsafe fn mapped(layout: Layout, starts: Vec<*mut u8>) -> Result<Self, RamError> {
        let addresses = starts.iter().map(|start| start.addr() as u64);
        let ranges = tracked(&layout, addresses);
        // SAFETY: the caller vouches for what `new` asks for.
        let memory = unsafe { MappedMemory::new(layout, starts) };
        let tracker = PagemapTracker::of_this_process(ranges)?;
        Ok(Self::new(Arc::new(memory), Box::new(tracker)))
    }

    /// The same, with writes that only `source` sees: those of devices, say, that run in a process
    /// whose page tables nobody watches.
    #[must_use]
    pub fn also_written_by(self, source: Box<dyn DirtySource>) -> Self {
        Self {
            memory: self.memory,
            dirty: Box::new(Combined::new(self.dirty, source)),
        }
    }

    /// The regions it consists of.
    pub fn layout(&self) -> &Layout {
        self.memory.layout()
    }

    /// Its memory.
    pub fn memory(&self) -> &Arc<dyn GuestMemory> {
        &self.memory
    }

    /// What tracks the writes to it.
    pub fn dirty(&mut self) -> &mut dyn DirtySource {
        &mut *self.dirty
    }

    /// Takes it apart.
    pub fn into_parts(self) -> (Arc<dyn GuestMemory>, Box<dyn DirtySource>) {
        (self.memory, self.dirty)
    }
}

/// The regions of `layout` where a process has mapped them.
fn tracked(layout: &Layout, addresses: impl ExactSizeIterator<Item = u64>) -> Vec<TrackedRange> {
    assert_eq!(
        layout.regions().len(),
        addresses.len(),
        "one address for each region"
    );
    let region = |(number, address)| TrackedRange {
        address,
        range: layout.region_range(number),
    };
    addresses.enumerate().map(region).collect()
}
