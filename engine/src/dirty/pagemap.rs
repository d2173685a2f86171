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
//! as such and costs nothing. Of a shared file every place is protected: the kernel puts a marker
//! where the page table holds nothing, since the file may hold a page there. So what is populated
//! can be asked at any time, of private memory and of files. It must be asked after arming: a page
//! first written before that is then found, and one first written later is harvested as well.
//!
//! Discarded pages of anonymous memory (MADV_DONTNEED) are reported. The exception: a hole punched
//! into a shared file leaves the protection in place, so a page that was not written since the
//! last harvest is zero from then on and is not reported. Balloons and free page reporting do this,
//! to pages whose content the guest has given up; the target may then hold their older bytes, unless
//! a [`DiscardTracker`](super::DiscardTracker) looks for holes.

use std::ops::Range;

use rustix::process::Pid;

use super::private::PrivateRanges;
use super::{DirtyError, DirtySource};
use crate::memory::PageBitmap;
use crate::sys::{Mappings, Marks, PagemapScan, SysError, Userfaultfd};
use crate::units::{PAGE_BYTES, PageCount, PageRange};

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
    scan: PagemapScan,
    mappings: Mappings,
    uffd: Userfaultfd,
    ranges: Vec<TrackedRange>,
    /// How many of `ranges` are registered, from the first on.
    registered: usize,
    /// Those of them that are protected as a whole.
    whole: Vec<TrackedRange>,
    /// Those of which only what is populated is.
    private: PrivateRanges,
    /// Harvested, but given back.
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
            scan: PagemapScan::open(pid)?,
            mappings: Mappings::open(pid)?,
            uffd,
            ranges,
            registered: 0,
            whole: Vec::new(),
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

    fn protect_all(&mut self) -> Result<(), SysError> {
        let pages = self.ranges.iter().map(|tracked| tracked.range.end());
        self.private = PrivateRanges::new(PageCount(pages.max().unwrap_or(0)));
        for tracked in &self.ranges {
            let is_private = self.mappings.are_private_anonymous(tracked.addresses())?;
            let (address, len_bytes) = (tracked.address, tracked.range.bytes().0);
            self.uffd.register_write_protect(address, len_bytes)?;
            self.registered += 1;
            if is_private {
                self.private.protect(*tracked, &mut self.scan)?;
            } else {
                self.uffd.write_protect(address, len_bytes)?;
                self.whole.push(*tracked);
            }
        }
        Ok(())
    }
}

impl DirtySource for PagemapTracker {
    fn arm(&mut self) -> Result<(), DirtyError> {
        self.disarm();
        self.protect_all().map_err(|error| {
            self.disarm();
            error.into()
        })
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        if let Some(pending) = self.pending.take() {
            into.union(&pending);
        }
        for tracked in &self.whole {
            let found = |run| into.insert(tracked.pages(run));
            self.scan
                .written(tracked.addresses(), Marks::Clear, found)?;
        }
        self.private
            .harvest(&mut self.scan, |run| into.insert(run))?;
        Ok(())
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
