//! Pages of a shared file that were discarded: holes where there was data.
//!
//! A hole that is punched into a shared file leaves userfaultfd's protection in place (Linux 6.18), so
//! that the [page-table tracker](super::PagemapTracker) does not report the page. It reads as zeros
//! from then on, and a target that has it already would keep its older bytes.
//!
//! So holes are looked for: whoever makes them (`fallocate`, `MADV_REMOVE`, `ftruncate`), the kernel
//! takes the page out of the page table, and out of the file. Of the pages that had data, those that
//! the page table lacks are looked up in the file; that is exact, and cheap, since few are lacking.
//!
//! A page that is written after the last harvest and then discarded has no protection to keep: the
//! page-table tracker reports it.
//!
//! Where nothing may have been discarded yet, nothing is looked for: see [`DiscardSwitch`].
//!
//! What it does not see: a page that is discarded and then read, not written, before the next harvest. The
//! file and the page table have it again, and it is protected as before.
//!
//! Costs a second scan of the page table (0.4 ms per GiB of what had data), and 50 ns for each page that
//! the file has and the page table has not: all of them after the guest has just arrived, until it
//! touches them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Pid;

use super::sparse::looked;
use super::{DirtyError, DirtySource, TrackedRange};
use crate::memory::{FileMemory, FindData, PageBitmap, ReadPages};
use crate::sys::PagemapScan;
use crate::units::PageRange;

/// Pages without data that are worth leaving out: those of a page table.
const APART_PAGES: u64 = 512;

/// Whether discarded pages are looked for: not before something may have discarded one. What was discarded
/// before, since arming, is found then too.
#[derive(Clone, Debug, Default)]
pub struct DiscardSwitch(Arc<AtomicBool>);

impl DiscardSwitch {
    /// On from the start.
    pub fn on() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// Has every harvest from now on look for discarded pages.
    pub fn turn_on(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reports discarded pages of a shared file that is not of huge pages. To be
/// [combined](super::Combined) with a tracker of writes, as the second.
#[derive(Debug)]
pub struct DiscardTracker {
    scan: PagemapScan,
    memory: Arc<FileMemory>,
    ranges: Vec<TrackedRange>,
    /// Pages that the file may have data for, and the target may have too.
    data: PageBitmap,
    switch: DiscardSwitch,
}

impl DiscardTracker {
    /// Looks for discarded pages of `memory`, which process `pid` (`None`: this one) has mapped at
    /// `ranges`, once `switch` is on.
    ///
    /// # Errors
    /// When the page map of that process cannot be opened, or the memory is of huge pages.
    pub fn new(
        pid: Option<Pid>,
        memory: Arc<FileMemory>,
        ranges: Vec<TrackedRange>,
        switch: DiscardSwitch,
    ) -> Result<Self, DirtyError> {
        let huge = |region: &crate::memory::Region| {
            region.backing_page.0 > crate::units::PAGE_BYTES as u64
        };
        if memory.layout().regions().iter().any(huge) {
            return Err(DirtyError::Unsupported {
                what: "discarded pages of memory of huge pages cannot be told".into(),
                remedy: "do not let the guest discard memory (free-page-reporting=off)".into(),
            });
        }
        Ok(Self {
            scan: PagemapScan::open(pid)?,
            data: PageBitmap::new(memory.layout().pages()),
            memory,
            ranges,
            switch,
        })
    }
}

/// The pages of `run` that `memory` has no data for, as runs.
fn holes(memory: &FileMemory, run: PageRange) -> Result<Vec<PageRange>, DirtyError> {
    let (mut holes, mut at) = (Vec::new(), run.first.0);
    let mut hole = |from: u64, to: u64| {
        if from < to {
            holes.push(PageRange::new(from, to - from));
        }
    };
    let mut data = |data: PageRange| {
        hole(at, data.first.0);
        at = data.end();
    };
    memory.for_each_data(run, &mut data).map_err(looked)?;
    hole(at, run.end());
    Ok(holes)
}

/// The parts of `range` with pages in `data`, as few as skip whole page tables without any.
fn parts_with(data: &PageBitmap, range: PageRange) -> Vec<PageRange> {
    let mut parts: Vec<PageRange> = Vec::new();
    for run in data.runs_in(range) {
        match parts.last_mut() {
            Some(last) if run.first.0 - last.end() < APART_PAGES => {
                *last = PageRange::new(last.first.0, run.end() - last.first.0);
            }
            _ => parts.push(run),
        }
    }
    parts
}

impl DirtySource for DiscardTracker {
    fn arm(&mut self) -> Result<(), DirtyError> {
        self.data.clear();
        Ok(())
    }

    fn note_populated(&mut self, pages: &PageBitmap) -> Result<(), DirtyError> {
        self.data.union(pages);
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        self.data.union(into);
        if !self.switch.is_on() {
            return Ok(());
        }
        let mut absent = Vec::new();
        for tracked in &self.ranges {
            let data = &self.data;
            for part in parts_with(data, tracked.range) {
                let found = |run| absent.extend(data.runs_in(tracked.pages(run)));
                self.scan.absent(tracked.addresses_of(part), found)?;
            }
        }
        for run in absent {
            for hole in holes(&self.memory, run)? {
                self.data.remove(hole);
                into.insert(hole);
            }
        }
        Ok(())
    }

    /// Nothing: the tracker of writes takes all back.
    fn give_back(&mut self, _: &PageBitmap) {}

    fn disarm(&mut self) {
        self.data.clear();
    }
}
