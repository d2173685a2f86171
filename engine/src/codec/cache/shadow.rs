//! Room for every page: no choice to make, only which pages are there.

use super::page_mut;
use crate::units::PAGE_BYTES;

/// The shadow of one shard's pages.
#[derive(Debug)]
pub(super) struct Shadow {
    /// One bit for each page that is there.
    there: Vec<u64>,
    data: Vec<u8>,
}

impl Shadow {
    /// Memory that the shadow of `pages` pages takes.
    pub(super) fn bytes(pages: usize) -> u64 {
        (pages as u64).saturating_mul(PAGE_BYTES as u64) + pages.div_ceil(64) as u64 * 8
    }

    pub(super) fn new(pages: usize) -> Self {
        Self {
            there: vec![0; pages.div_ceil(64)],
            data: vec![0; pages * PAGE_BYTES],
        }
    }

    pub(super) fn look_up(&mut self, page: usize) -> Option<&mut [u8; PAGE_BYTES]> {
        let there = self.there[page / 64] >> (page % 64) & 1 == 1;
        there.then(|| page_mut(&mut self.data, page))
    }

    /// The page's place, to be written whole.
    pub(super) fn insert(&mut self, page: usize) -> &mut [u8; PAGE_BYTES] {
        self.there[page / 64] |= 1 << (page % 64);
        page_mut(&mut self.data, page)
    }

    pub(super) fn forget(&mut self, page: usize) {
        self.there[page / 64] &= !(1 << (page % 64));
    }
}
