//! Dirty tracking by the page tables: userfaultfd's asynchronous write-protection, read and
//! re-armed with `PAGEMAP_SCAN`. Linux 6.7 or newer.
//!
//! Works on any memory of this process or of another one: anonymous, tmpfs and memfd, hugetlbfs
//! (there in units of huge pages, each reported as all the pages it holds). A write costs the
//! writer one fault of about 1 us per page and harvest; no thread ever waits for this process.
//! Scan costs: see [`PagemapScan`].
//!
//! What it sees: writes through the page tables of the tracked process, by its threads, by its
//! KVM vCPUs, or by the kernel on its behalf (read(2) into guest memory).
//!
//! What it does not see: writes by *other* processes that map the same file (vhost-user back
//! ends), by write(2) to that file, and by devices that were given the physical pages (VFIO).
//! Such guests must be refused.
//!
//! What is protected: of anonymous private memory, which is nowhere but in page tables, the pages
//! that are there (see [`private`](super::private)), so that what was never populated still shows
//! as such and costs nothing. Of a file that tells where it holds data, the areas that do (see
//! [`sparse`](super::sparse)). Of any other shared file every place: the kernel puts a marker where
//! the page table holds nothing, since the file may hold a page there. So what is populated can be
//! asked at any time, of private memory and of files. It must be asked after arming: a page first
//! written before that is then found, and one first written later is harvested as well.
//!
//! Discarded pages of anonymous memory (MADV_DONTNEED) are reported. The exception: a hole punched
//! into a shared file leaves the protection in place, so a page that was not written since the
//! last harvest is zero from then on and is not reported. Balloons and free page reporting do this,
//! to pages whose content the guest has given up; the target may then hold their older bytes, unless
//! a [`DiscardTracker`](super::DiscardTracker) looks for holes.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use rustix::process::Pid;

use super::private::PrivateRanges;
use super::scanners::Scanners;
use super::sparse::{InFile, Sparse};
use super::{DirtyError, DirtySource};
use crate::memory::{GuestMemory, PageBitmap};
use crate::sys::{Mappings, PagemapScan, SysError, Userfaultfd};
use crate::units::{PAGE_BYTES, PageCount, PageIndex, PageRange};

/// Pages that are worth being sent while others are looked for: a frame for a few channels.
const PART_PAGES: u64 = 512;

/// Memory that a thread scans at a time where it may be of huge pages: the largest there are.
const PIECE_BYTES: u64 = 1 << 30;

/// Pages of the layout, and where the tracked process has mapped them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedRange {
    /// Address of the first page, in the tracked process. A multiple of the mapping's page size,
    /// as is the length; 2 MiB or 1 GiB on hugetlbfs.
    pub address: u64,
    /// The pages.
    pub range: PageRange,
}

impl TrackedRange {
    /// Where the pages are.
    pub(super) fn addresses(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.range.bytes().0)
    }

    /// Where `page`, one of them, is.
    pub(super) fn address_of(&self, page: PageIndex) -> u64 {
        self.address + (page.0 - self.range.first.0) * PAGE_BYTES as u64
    }

    /// Where `pages`, a part of them, are.
    pub(super) fn addresses_of(&self, pages: PageRange) -> Range<u64> {
        let start = self.address_of(pages.first);
        start..start + pages.bytes().0
    }

    /// The pages at `addresses`, a part of [`addresses`](Self::addresses).
    pub(super) fn pages(&self, addresses: Range<u64>) -> PageRange {
        let page = |address: u64| (address - self.address) / PAGE_BYTES as u64;
        let first = page(addresses.start);
        PageRange::new(self.range.first.0 + first, page(addresses.end) - first)
    }
}

/// The pages that a process has written, from its page tables.
#[derive(Debug)]
pub struct PagemapTracker {
    scanners: Scanners,
    mappings: Mappings,
    uffd: Userfaultfd,
    /// The memory that the ranges are, if it tells where its files hold data.
    file: Option<InFile>,
    ranges: Vec<TrackedRange>,
    /// How many of `ranges` are registered, from the first on.
    registered: usize,
    /// Those of them that are protected as a whole.
    whole: Vec<TrackedRange>,
    /// Those of which only areas with data are.
    sparse: Sparse,
    /// Those of which only what is populated is.
    private: PrivateRanges,
    /// Harvested but given back, or found to be written in between.
    pending: Option<PageBitmap>,
}

impl PagemapTracker {
    /// Prepares to track `ranges` of process `pid` (`None`: this one) with a userfaultfd of that
    /// process, on which [`Userfaultfd::enable_async_write_protect`] has been called.
    ///
    /// # Errors
    /// When the page map of that process cannot be opened, or the kernel has no `PAGEMAP_SCAN`.
    pub fn new(
        pid: Option<Pid>,
        uffd: Userfaultfd,
        ranges: Vec<TrackedRange>,
    ) -> Result<Self, DirtyError> {
        PagemapScan::probe()?;
        Ok(Self {
            scanners: Scanners::open(pid)?,
            mappings: Mappings::open(pid)?,
            uffd,
            file: None,
            ranges,
            registered: 0,
            whole: Vec::new(),
            sparse: Sparse::default(),
            private: PrivateRanges::new(PageCount(0)),
            pending: None,
        })
    }

    /// Prepares to track `ranges` of this process, with a userfaultfd of its own.
    ///
    /// # Errors
    /// When this process cannot have a userfaultfd, or as for [`new`](Self::new).
    pub fn of_this_process(ranges: Vec<TrackedRange>) -> Result<Self, DirtyError> {
        let uffd = Userfaultfd::open()?;
        uffd.enable_async_write_protect()?;
        Self::new(None, uffd, ranges)
    }

    /// The ranges are the pages of `memory`, mapped as shared memory: where that tells which parts of its
    /// files hold data, the others cost nothing.
    #[must_use]
    pub fn with_memory(mut self, memory: Arc<dyn GuestMemory>) -> Self {
        self.file = InFile::new(memory);
        self
    }

    fn take_pending(&mut self, into: &mut PageBitmap) {
        if let Some(pending) = self.pending.take() {
            into.union(&pending);
        }
    }

    /// Calls `found` for each run of pages that were written since the last harvest.
    fn harvest_runs(&mut self, found: &mut dyn FnMut(PageRange)) -> Result<(), DirtyError> {
        let whole = self.whole.iter();
        let whole: Vec<_> = whole
            .map(|tracked| (*tracked, tracked.addresses()))
            .collect();
        self.scanners
            .written(&whole, PIECE_BYTES, || Ok(()), found)?;
        if let Some(file) = &self.file {
            self.sparse
                .harvest(file, &self.uffd, &mut self.scanners, found)?;
        }
        self.private.harvest(self.scanners.one(), found)?;
        Ok(())
    }

    fn protect_all(&mut self) -> Result<(), DirtyError> {
        let pages = self.ranges.iter().map(|tracked| tracked.range.end());
        self.private = PrivateRanges::new(PageCount(pages.max().unwrap_or(0)));
        for tracked in &self.ranges {
            let is_private = self.mappings.are_private_anonymous(tracked.addresses())?;
            let (address, len_bytes) = (tracked.address, tracked.range.bytes().0);
            self.uffd.register_write_protect(address, len_bytes)?;
            self.registered += 1;
            match &self.file {
                _ if is_private => self.private.protect(*tracked, self.scanners.one())?,
                Some(file) if file.tells(tracked.range) => {
                    self.sparse.protect(*tracked, file, &self.uffd)?;
                }
                _ => {
                    self.uffd.write_protect(address, len_bytes)?;
                    self.whole.push(*tracked);
                }
            }
        }
        Ok(())
    }
}

impl DirtySource for PagemapTracker {
    fn arm(&mut self) -> Result<(), DirtyError> {
        self.disarm();
        self.protect_all().inspect_err(|_| self.disarm())
    }

    fn note_populated(&mut self, pages: &PageBitmap) -> Result<(), DirtyError> {
        if let Some(file) = &self.file {
            let capacity = pages.capacity();
            let pending = self
                .pending
                .get_or_insert_with(|| PageBitmap::new(capacity));
            let mut found = |run| pending.insert(run);
            self.sparse
                .note_populated(pages, file, &self.uffd, &mut found)?;
        }
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        self.take_pending(into);
        self.harvest_runs(&mut |run| into.insert(run))
    }

    fn harvest_in_parts(
        &mut self,
        into: &mut PageBitmap,
        part: &mut dyn FnMut(&PageBitmap),
    ) -> Result<(), DirtyError> {
        self.take_pending(into);
        let mut count = 0;
        self.harvest_runs(&mut |run| {
            into.insert(run);
            count += run.count.0;
            if count >= PART_PAGES {
                part(into);
                into.clear();
                count = 0;
            }
        })
    }

    fn set_scan_threads(&mut self, threads: NonZeroUsize) -> Result<(), DirtyError> {
        Ok(self.scanners.set_threads(threads)?)
    }

    fn give_back(&mut self, pages: &PageBitmap) {
        match &mut self.pending {
            Some(pending) => pending.union(pages),
            None => self.pending = Some(pages.clone()),
        }
    }

    fn disarm(&mut self) {
        for tracked in &self.ranges[..self.registered] {
            // Fails when the process has gone or unmapped the range: then nothing is protected
            // either.
            let _ = self
                .uffd
                .unregister(tracked.address, tracked.range.bytes().0);
        }
        self.registered = 0;
        self.whole.clear();
        self.sparse = Sparse::default();
        self.private = PrivateRanges::new(PageCount(0));
        self.pending = None;
    }
}

impl Drop for PagemapTracker {
    fn drop(&mut self) {
        // The descriptor alone would not do: whoever lent it may hold a copy.
        self.disarm();
    }
}

impl From<SysError> for DirtyError {
    fn from(error: SysError) -> Self {
        match error {
            SysError::Unsupported { what, remedy } => Self::Unsupported { what, remedy },
            SysError::Failed { call, source } => Self::Kernel { call, source },
        }
    }
}
