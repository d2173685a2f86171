//! Written pages of anonymous private memory, of which only what is populated is protected.
//!
//! Such memory is nowhere but in the page tables of its process. The first write to an empty place
//! in a page table leaves a page there that is not protected, which is all that marks a page as
//! written: so empty places need no protection. They cost nothing, and stay visible as empty, so that
//! [what is populated](crate::memory::ReadPages::populated) can be asked while tracking is armed.
//! A page that has gone would not show; the pages that were seen are remembered, one bit each.
//!
//! # Why no write is lost
//!
//! Each harvest first looks for what is written and what is empty, and then has the kernel protect
//! and report the written pages, each in one step under the lock of its page table. A write that
//! comes before that step is reported. One that comes after it, or to a page that was not looked at
//! again, leaves a page that is not protected, for the next harvest. Swapping out and back in keeps
//! the protection, or the lack of it.

use std::ops::Range;

use super::TrackedRange;
use crate::memory::PageBitmap;
use crate::sys::{Content, PagemapScan, SysError};
use crate::units::{PageCount, PageRange};

/// Written pages that are this many bytes apart, or less, are protected by one call: looking at what is
/// between them takes less time than another call.
const APART_BYTES: u64 = 1 << 20;

/// Ranges of anonymous private memory whose populated pages are protected.
#[derive(Debug)]
pub(super) struct PrivateRanges {
    ranges: Vec<TrackedRange>,
    /// Pages that were there when they were last looked at.
    known: PageBitmap,
    /// Where pages are written; kept for its memory.
    written: Vec<Range<u64>>,
}

impl PrivateRanges {
    /// No range yet, of a layout of `pages` pages.
    pub(super) fn new(pages: PageCount) -> Self {
        Self {
            ranges: Vec::new(),
            known: PageBitmap::new(pages),
            written: Vec::new(),
        }
    }

    /// Adds a range that is registered, and protects what is populated of it.
    pub(super) fn protect(
        &mut self,
        tracked: TrackedRange,
        scan: &mut PagemapScan,
    ) -> Result<(), SysError> {
        scan.protect_written_pages(tracked.addresses(), |run, content| {
            if content == Content::Pages {
                self.known.insert(tracked.pages(run));
            }
        })?;
        self.ranges.push(tracked);
        Ok(())
    }

    /// Calls `found` for each run of pages that were written, or discarded, since the last harvest.
    pub(super) fn harvest(
        &mut self,
        scan: &mut PagemapScan,
        mut found: impl FnMut(PageRange),
    ) -> Result<(), SysError> {
        let Self {
            ranges,
            known,
            written,
        } = self;
        for tracked in ranges {
            written.clear();
            scan.written_or_empty(tracked.addresses(), |run, content| match content {
                Content::Nothing => forget(known, tracked.pages(run), &mut found),
                Content::Pages => match written.last_mut() {
                    Some(last) if run.start - last.end <= APART_BYTES => last.end = run.end,
                    _ => written.push(run),
                },
            })?;
            for addresses in written.drain(..) {
                scan.protect_written_pages(addresses, |run, content| {
                    let run = tracked.pages(run);
                    match content {
                        Content::Nothing => forget(known, run, &mut found),
                        Content::Pages => {
                            known.insert(run);
                            found(run);
                        }
                    }
                })?;
            }
        }
        Ok(())
    }
}

/// Removes the pages of `empty` from `known`, and calls `found` for those that were there.
fn forget(known: &mut PageBitmap, empty: PageRange, found: &mut impl FnMut(PageRange)) {
    known.runs_in(empty).for_each(found);
    known.remove(empty);
}
