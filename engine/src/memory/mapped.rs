//! Guest memory that this process has mapped privately: for embedders, hypervisors with
//! anonymous guest memory.
//!
//! Copies are sound while a guest writes (see [`copy`](super::copy)). Reading a page that was
//! never written maps the kernel's zero page, which takes no memory beyond page tables.
//!
//! Memory in shared files belongs into a [`FileMemory`](super::FileMemory), also when this
//! process maps it: reading a hole through a shared mapping would populate it, and page tables
//! do not show what others have put into the file.

#![allow(unsafe_code, reason = "guest memory is reached through raw pointers")]

use super::{GuestMemory, Layout, MemoryError, PageBitmap, ReadPages, Span, copy};
use crate::codec::is_zero;
use crate::sys::PagemapScan;
use crate::units::{PAGE_BYTES, PageIndex, PageRange};

/// The memory of a guest whose regions are private mappings of this process.
#[derive(Debug)]
pub struct MappedMemory {
    layout: Layout,
    /// Where each region starts.
    starts: Vec<*mut u8>,
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
        Self { layout, starts }
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
        self.layout.check(range)?;
        let mut content = ZEROS;
        for page in range.indices() {
            for span in self.layout.spans(PageRange::new(page, 1)) {
                // SAFETY: the span is mapped in full, by the constructor's contract.
                unsafe { copy::load(self.at(span), &mut content) };
                if !is_zero(&content) {
                    // SAFETY: as above.
                    unsafe { copy::store(&ZEROS, self.at(span)) };
                }
            }
        }
        Ok(())
    }
}
