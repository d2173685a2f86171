//! Written pages of files that tell where they hold data, of which only areas with data are protected.
//!
//! To protect a place that the page table lacks puts a marker there, and takes a page table: 2 MiB of
//! them per GiB of memory, which arming fills and every harvest walks. A large guest has touched a part
//! of its memory only. So memory is taken in areas of one page table each. Those that hold data are
//! protected as a whole, markers included; the others have nothing, and cost one question to the file
//! for each gap between protected areas: does it hold data by now?
//!
//! # Why no write is lost (docs/decisions/083)
//!
//! Protected areas never become unprotected before tracking ends, and in them the markers of the kernel
//! tell all writes. A write elsewhere puts its page into the file before it is done, where the page
//! stays, in memory or swapped out, whatever becomes of the page table. The next harvest finds it there,
//! protects the area, and then reports all that the file has in it: a write that comes before that
//! protection is read with the page, and one that comes later is marked.
//!
//! What is told to be [populated](Sparse::note_populated) is in protected areas from then on. So a page
//! outside of these was never sent, and the target has zeros there: if it was written and discarded
//! since, that is what it is.

use std::ops::Range;
use std::sync::Arc;

use super::areas::Areas;
use super::scanners::Scanners;
use super::{DirtyError, TrackedRange};
use crate::memory::{FindData, GuestMemory, MemoryError, PageBitmap};
use crate::sys::Userfaultfd;
use crate::units::{PageIndex, PageRange};

/// Bytes of address space that a page table of the last level is for, where pages are of 4 KiB.
const AREA_BYTES: u64 = 2 << 20;

/// Memory that a thread scans at a time.
const PIECE_BYTES: u64 = 64 << 20;

/// Ranges of files that tell where they hold data.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    ranges: Vec<SparseRange>,
}

#[derive(Debug)]
struct SparseRange {
    tracked: TrackedRange,
    protected: Areas,
}

/// The guest's memory, which tells where it holds data.
#[derive(Clone)]
pub(super) struct InFile(Arc<dyn GuestMemory>);

impl std::fmt::Debug for InFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InFile")
    }
}

impl InFile {
    /// `None`: this memory cannot tell.
    pub(super) fn new(memory: Arc<dyn GuestMemory>) -> Option<Self> {
        memory.find_data().is_some().then_some(Self(memory))
    }

    /// Whether it tells for all of `pages`.
    pub(super) fn tells(&self, pages: PageRange) -> bool {
        self.0
            .find_data()
            .is_some_and(|data| data.tells_data(pages))
    }

    fn ask<R>(
        &self,
        what: impl FnOnce(&dyn FindData) -> Result<R, MemoryError>,
    ) -> Result<Option<R>, DirtyError> {
        self.0.find_data().map(what).transpose().map_err(looked)
    }
}

/// The kernel's answer about a file, as that of a tracker.
pub(super) fn looked(error: MemoryError) -> DirtyError {
    DirtyError::Kernel {
        call: "lseek(SEEK_DATA) on the guest's RAM",
        source: std::io::Error::other(error),
    }
}

impl Sparse {
    /// Adds a range that is registered, and protects the areas of it that hold data.
    pub(super) fn protect(
        &mut self,
        tracked: TrackedRange,
        file: &InFile,
        uffd: &Userfaultfd,
    ) -> Result<(), DirtyError> {
        let mut range = SparseRange {
            tracked,
            protected: Areas::default(),
        };
        let new = range.new_areas(&mut |pages| first_in_file(file, pages))?;
        range.grow(&new, uffd)?;
        self.ranges.push(range);
        Ok(())
    }

    /// Calls `found` for each run of pages that were written since the last harvest.
    pub(super) fn harvest(
        &mut self,
        file: &InFile,
        uffd: &Userfaultfd,
        scanners: &mut Scanners,
        found: &mut dyn FnMut(PageRange),
    ) -> Result<(), DirtyError> {
        let Self { ranges } = self;
        let mut pieces = Vec::new();
        for range in &*ranges {
            let areas = range.protected.ranges().iter().cloned();
            pieces.extend(areas.map(|area| (range.tracked, area)));
        }
        // The files are asked while page tables are scanned.
        let mut fresh = Vec::new();
        let ask = || {
            for range in ranges {
                let new = range.new_areas(&mut |pages| first_in_file(file, pages))?;
                range.grow(&new, uffd)?;
                let areas = new.ranges().iter();
                fresh.extend(areas.map(|area| range.tracked.pages(area.clone())));
            }
            Ok(())
        };
        scanners.written(&pieces, PIECE_BYTES, ask, found)?;
        for pages in fresh {
            file.ask(|data| data.for_each_data(pages, &mut *found))?;
        }
        Ok(())
    }

    /// The pages of `populated` are sent, though no harvest has reported them: protects the areas of
    /// those that came after arming, and calls `found` for what the file has in these.
    pub(super) fn note_populated(
        &mut self,
        populated: &PageBitmap,
        file: &InFile,
        uffd: &Userfaultfd,
        found: &mut dyn FnMut(PageRange),
    ) -> Result<(), DirtyError> {
        for range in &mut self.ranges {
            let new = range.new_areas(&mut |pages| {
                let first = populated.runs_in(pages).next();
                Ok(first.map(|run| run.first))
            })?;
            range.grow(&new, uffd)?;
            for area in new.ranges() {
                let pages = range.tracked.pages(area.clone());
                file.ask(|data| data.for_each_data(pages, &mut *found))?;
            }
        }
        Ok(())
    }
}

/// The first of `pages` that the file has data for.
fn first_in_file(file: &InFile, pages: PageRange) -> Result<Option<PageIndex>, DirtyError> {
    Ok(file.ask(|data| data.first_data(pages))?.flatten())
}

impl SparseRange {
    /// The unprotected areas in which `first` finds a page.
    fn new_areas(
        &self,
        first: &mut dyn FnMut(PageRange) -> Result<Option<PageIndex>, DirtyError>,
    ) -> Result<Areas, DirtyError> {
        let mut new = Areas::default();
        for gap in self.protected.gaps(self.tracked.addresses()) {
            let mut at = gap.start;
            while at < gap.end
                && let Some(page) = first(self.tracked.pages(at..gap.end))?
            {
                let area = self.area_of(page);
                at = area.end.min(gap.end);
                new.push(area.start.max(gap.start)..at);
            }
        }
        Ok(new)
    }

    /// The area that `page` is in.
    fn area_of(&self, page: PageIndex) -> Range<u64> {
        let address = self.tracked.address_of(page);
        let start = address - address % AREA_BYTES;
        start..start + AREA_BYTES
    }

    /// Protects `new`.
    fn grow(&mut self, new: &Areas, uffd: &Userfaultfd) -> Result<(), DirtyError> {
        for area in new.ranges() {
            uffd.write_protect(area.start, area.end - area.start)?;
        }
        self.protected.add(new);
        Ok(())
    }
}
