//! Pages that are to be packed together, side by side in the buffer they were read into.

use std::ops::Range;

use crate::codec::block::MAX_BLOCK_PAGES;
use crate::units::{PAGE_BYTES, PageCount, PageIndex, PageRange};

/// The block under way.
#[derive(Debug)]
pub(super) struct Gathered {
    /// Where its pages begin, and how many bytes they are.
    start: usize,
    bytes: usize,
    runs: Vec<PageRange>,
}

impl Default for Gathered {
    fn default() -> Self {
        Self {
            start: 0,
            bytes: 0,
            runs: Vec::with_capacity(MAX_BLOCK_PAGES),
        }
    }
}

impl Gathered {
    /// Adds the page whose content is at `at` of `data`, not before the end of the others.
    ///
    /// A block may begin anywhere; pages are moved only if others between them left it.
    pub(super) fn add(&mut self, page: PageIndex, at: usize, data: &mut [u8]) {
        if self.is_empty() {
            self.start = at;
        } else if at != self.end() {
            data.copy_within(at..at + PAGE_BYTES, self.end());
        }
        self.bytes += PAGE_BYTES;
        match self.runs.last_mut() {
            Some(run) if run.end() == page.0 => run.count += PageCount(1),
            _ => self.runs.push(PageRange {
                first: page,
                count: PageCount(1),
            }),
        }
    }

    /// Whether there is no room for another page.
    pub(super) fn is_full(&self) -> bool {
        self.bytes == MAX_BLOCK_PAGES * PAGE_BYTES
    }

    /// Whether it has no page.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Where its pages end; 0 if there is none.
    pub(super) fn end(&self) -> usize {
        self.start + self.bytes
    }

    /// Where its pages are.
    pub(super) fn place(&self) -> Range<usize> {
        self.start..self.end()
    }

    /// Its pages, in their order.
    pub(super) fn runs(&self) -> &[PageRange] {
        &self.runs
    }

    /// Begins the next block.
    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.start = 0;
        self.bytes = 0;
    }
}
