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
//! Discarded pages (MADV_DONTNEED on anonymous memory) are reported, because their
//! protection goes with them. The exception: a hole punched into a shared file leaves the
//! protection in place, so a page that was not written since the last harvest is zero from then
//! on and is not reported. Balloons and free page reporting do this, to pages whose content the
//! guest has given up; the target may then hold their older bytes.

use rustix::process::Pid;

use super::{DirtyError, DirtySource};
use crate::memory::PageBitmap;
use crate::sys::{Marks, PagemapScan, SysError, Userfaultfd};
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
    fn addresses(&self) -> std::ops::Range<u64> {
        self.address..self.address.saturating_add(self.range.bytes().0)
    }
}

/// The pages that a process has written, from its page tables.
#[derive(Debug)]
pub struct PagemapTracker {
    scan: PagemapScan,
    uffd: Userfaultfd,
    ranges: Vec<TrackedRange>,
    /// Harvested, but given back.
    pending: Option<PageBitmap>,
    /// How many of `ranges` are registered, from the first on.
    registered: usize,
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
            uffd,
            ranges,
            pending: None,
            registered: 0,
        })
    }

    /// Registers and protects every range. Protecting also covers pages that are not populated,
    /// or that only the page cache of a shared file holds: the kernel leaves a marker in the
    /// page table, so that the first write to such a page is seen as well.
    fn protect_all(&mut self) -> Result<(), SysError> {
        for tracked in &self.ranges {
            let len_bytes = tracked.range.bytes().0;
            self.uffd
                .register_write_protect(tracked.address, len_bytes)?;
            self.registered += 1;
            self.uffd.write_protect(tracked.address, len_bytes)?;
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
        for tracked in &self.ranges {
            self.scan
                .written(tracked.addresses(), Marks::Clear, |run| {
                    let page = |address: u64| (address - tracked.address) / PAGE_BYTES as u64;
                    let first = page(run.start);
                    into.insert(PageRange::new(
                        tracked.range.first.0 + first,
                        page(run.end) - first,
                    ));
                })?;
        }
        Ok(())
    }

    /// Costs a scan: 0.4 ms per GiB, and no fault of the guest's.
    fn look(&mut self) -> Result<Option<PageCount>, DirtyError> {
        let mut bytes = 0;
        for tracked in &self.ranges {
            self.scan.written(tracked.addresses(), Marks::Keep, |run| {
                bytes += run.end - run.start;
            })?;
        }
        Ok(Some(PageCount(bytes / PAGE_BYTES as u64)))
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
