//! Guest memory that this process has mapped privately: for embedders, hypervisors with
//! anonymous guest memory.
//!
//! Copies are sound while a guest writes (see [`copy`](super::copy)). Reading a page that was
//! never written maps the kernel's zero page, which takes no memory beyond page tables.
//!
//! Memory in shared files belongs into a [`FileMemory`](super::FileMemory) or a
//! [`SharedMemory`](super::SharedMemory), which says why.

#![allow(unsafe_code, reason = "guest memory is reached through raw pointers")]

use std::io;

use rustix::mm::{Advice, madvise};

use super::{
    DiscardPages, GuestMemory, Layout, MapPages, MemoryError, PageBitmap, PlaceAbsent, ReadPages,
    Span, copy,
};
use crate::codec::is_zero;
use crate::sys::{PagemapScan, SysError, Userfaultfd};
use crate::units::{PAGE_BYTES, PageCount, PageIndex, PageRange};

/// The memory of a guest whose regions are private mappings of this process.
#[derive(Debug)]
pub struct MappedMemory {
    layout: Layout,
    /// Where each region starts.
    starts: Vec<*mut u8>,
    /// Where they are registered, for placing absent pages.
    uffd: Option<Userfaultfd>,
}

// SAFETY: the constructor's contract makes the memory valid for as long as this lives, on every
// thread, and all accesses may run at the same time on several threads (see `copy`).
unsafe impl Send for MappedMemory {}
// SAFETY: as above.
unsafe impl Sync for MappedMemory {}

impl MappedMemory {
    /// The regions of `layout`, in the same order, at the addresses `starts`.
    ///
    /// # Safety
    /// For as long as the result lives:
    /// - each region is mapped in full, readable and writable, from its start on, which is a
    ///   multiple of [`PAGE_BYTES`];
    /// - it is anonymous private memory of this process, not on hugetlbfs (reading would populate
    ///   it, or end in a SIGBUS);
    /// - whatever else in this process accesses the memory does so atomically or from outside of
    ///   Rust: vCPUs, the kernel, assembly. No reference to it is alive.
    ///
    /// # Panics
    /// If there is not one address for each region, or one is not aligned.
    pub unsafe fn new(layout: Layout, starts: Vec<*mut u8>) -> Self {
        assert_eq!(
            layout.regions().len(),
            starts.len(),
            "one address for each region"
        );
        assert!(
            starts.iter().all(|start| start.addr() % PAGE_BYTES == 0),
            "regions start at a page"
        );
        Self {
            layout,
            starts,
            uffd: None,
        }
    }

    /// Registers the memory with `uffd`, so that pages can be placed where they are absent. No fault
    /// is held back by that.
    ///
    /// `uffd` is one of this process, on which [`Userfaultfd::enable_async_write_protect`] has been
    /// called. A tracker that is armed has the memory registered with its own, and no other can.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn with_userfaultfd(mut self, uffd: Userfaultfd) -> Result<Self, SysError> {
        for (region, start) in self.layout.regions().iter().zip(&self.starts) {
            uffd.register_write_protect(start.addr() as u64, region.pages.bytes().0)?;
        }
        self.uffd = Some(uffd);
        Ok(self)
    }

    fn at(&self, span: Span) -> *mut u8 {
        let offset = usize::try_from(span.offset).expect("a mapped region fits the address space");
        // SAFETY: the layout keeps spans within their regions, which are mapped in full.
        unsafe { self.starts[span.region].add(offset) }
    }
}

impl ReadPages for MappedMemory {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        for (span, piece) in self.layout.pieces_mut(range, out)? {
            // SAFETY: the span is mapped in full, by the constructor's contract.
            unsafe { copy::load(self.at(span), piece) };
        }
        Ok(())
    }

    /// Asks the page tables: pages that are there, or swapped out. An armed
    /// [`PagemapTracker`](crate::dirty::PagemapTracker) does not change what they show. Where
    /// somebody else has write-protected places that hold nothing, and on kernels before Linux 6.7,
    /// those are reported as well, and read as zeros.
    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError> {
        let mut scan = PagemapScan::open(None).ok();
        for (number, start) in self.starts.iter().enumerate() {
            let range = self.layout.region_range(number);
            let start = start.addr() as u64;
            let page = |address: u64| range.first.0 + (address - start) / PAGE_BYTES as u64;
            let known = scan.as_mut().is_some_and(|scan| {
                scan.populated(start..start + range.bytes().0, |run| {
                    let first = page(run.start);
                    into.insert(PageRange::new(first, page(run.end) - first));
                })
                .is_ok()
            });
            if !known {
                into.insert(range);
            }
        }
        Ok(())
    }
}

impl GuestMemory for MappedMemory {
    fn write(&self, first: PageIndex, data: &[u8]) -> Result<(), MemoryError> {
        for (span, piece) in self.layout.pieces(first, data)? {
            // SAFETY: the span is mapped in full, by the constructor's contract.
            unsafe { copy::store(piece, self.at(span)) };
        }
        Ok(())
    }

    /// Looks before it writes, so that no page is populated only to hold zeros. The memory of
    /// pages that were populated is not given back: the embedder may have pinned it.
    fn write_zeros(&self, range: PageRange) -> Result<(), MemoryError> {
        const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        let mut content = ZEROS;
        for span in self.layout.checked_spans(range)? {
            let start = self.at(span);
            for page in 0..span.range.len_bytes() / PAGE_BYTES {
                // SAFETY: the span is mapped in full, by the constructor's contract.
                unsafe {
                    let page = start.add(page * PAGE_BYTES);
                    copy::load(page, &mut content);
                    if !is_zero(&content) {
                        copy::store(&ZEROS, page);
                    }
                }
            }
        }
        Ok(())
    }

    fn map_pages(&self) -> Option<&dyn MapPages> {
        Some(self)
    }

    fn place_absent(&self) -> Option<&dyn PlaceAbsent> {
        self.uffd.is_some().then_some(self)
    }

    fn discard_pages(&self) -> Option<&dyn DiscardPages> {
        Some(self)
    }
}

impl MapPages for MappedMemory {
    fn region_start(&self, region: usize) -> *mut u8 {
        self.starts[region]
    }
}

impl PlaceAbsent for MappedMemory {
    /// A page that was read is there: it is the kernel's page of zeros.
    fn place(&self, first: PageIndex, data: &[u8]) -> Result<PageCount, MemoryError> {
        let mut pages = PageCount(0);
        for (span, piece) in self.layout.pieces(first, data)? {
            let placed = match &self.uffd {
                // SAFETY: the span is mapped in full, and no reference to it is alive, by the
                // constructor's contract.
                Some(uffd) => unsafe { uffd.copy_absent(self.at(span), piece) },
                None => Err(SysError::Unsupported {
                    what: "the memory is registered with no userfaultfd".into(),
                    remedy: "register it before".into(),
                }),
            };
            pages += placed.map_err(|error| {
                let Span { region, offset, .. } = span;
                let source = io::Error::other(error);
                self.layout.refused("write", region, offset, source)
            })?;
        }
        Ok(pages)
    }
}

impl DiscardPages for MappedMemory {
    fn discard(&self, range: PageRange) -> Result<(), MemoryError> {
        for span in self.layout.checked_spans(range)? {
            // SAFETY: the span is mapped in full, and no reference to it is alive, by the
            // constructor's contract.
            unsafe {
                let start = self.at(span).cast();
                madvise(start, span.range.len_bytes(), Advice::LinuxDontNeed)
            }
            .map_err(|errno| {
                self.layout
                    .refused("discard", span.region, span.offset, errno.into())
            })?;
        }
        Ok(())
    }
}
