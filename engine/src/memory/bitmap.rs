//! A set of pages: one bit each, and one for each block of 512 pages that has any of them.
//!
//! What is done with a set costs by the blocks that hold pages of it, and a load for each 128 MiB of
//! memory besides: a guest may be of 1 TiB, of which few pages were written. Finding the next run costs
//! one load per 64 pages of it, as far as it is asked for.
//!
//! 32 KiB of addresses per GiB of guest memory, of which only those take memory whose pages were ever in
//! the set.

use std::ops::Range;

use crate::units::{PageCount, PageRange};

/// Words of 64 pages in a block, which is a cache line of them.
const BLOCK_WORDS: usize = 8;

/// Pages of a block.
const BLOCK_PAGES: u64 = BLOCK_WORDS as u64 * 64;

/// Pages of a block as bits, the lowest page in the lowest bit of the first word.
pub(crate) type Block = [u64; BLOCK_WORDS];

/// A set of the pages of one layout.
#[derive(Debug)]
pub struct PageBitmap {
    blocks: Vec<Block>,
    /// A bit for each block: whether it has any page.
    occupied: Vec<u64>,
    pages: u64,
}

impl PageBitmap {
    /// The empty set for a layout of `pages` pages.
    pub fn new(pages: PageCount) -> Self {
        let blocks = usize::try_from(pages.0.div_ceil(BLOCK_PAGES)).unwrap_or(usize::MAX);
        Self {
            // Zeros from the kernel, which takes memory for them once they are changed.
            blocks: vec![[0; BLOCK_WORDS]; blocks],
            occupied: vec![0; blocks.div_ceil(64)],
            pages: pages.0,
        }
    }

    /// Pages of the layout, in the set or not.
    pub fn capacity(&self) -> PageCount {
        PageCount(self.pages)
    }

    /// Whether no page is in the set.
    pub fn is_empty(&self) -> bool {
        self.occupied.iter().all(|group| *group == 0)
    }

    /// Number of pages in the set.
    pub fn count(&self) -> PageCount {
        let mut count = 0;
        for group in 0..self.groups() {
            for index in blocks_of(group, self.occupied(group)) {
                let words = self.blocks[index].iter();
                count += words.map(|word| u64::from(word.count_ones())).sum::<u64>();
            }
        }
        PageCount(count)
    }

    /// Number of pages that are both in the set and in `range`. Costs one load per 64 pages of it.
    pub fn count_in(&self, range: PageRange) -> PageCount {
        let mut count = 0;
        for_each_mask(range, self.pages, |block, word, mask| {
            count += u64::from((self.blocks[block][word] & mask).count_ones());
        });
        PageCount(count)
    }

    /// Whether page number `page` is in the set.
    pub fn contains(&self, page: u64) -> bool {
        let word = (page % BLOCK_PAGES / 64) as usize;
        page < self.pages && self.blocks[block_of(page)][word] & 1 << (page % 64) != 0
    }

    /// Adds the pages of `range`; those beyond the layout are left out.
    pub fn insert(&mut self, range: PageRange) {
        for_each_mask(range, self.pages, |block, word, mask| {
            self.blocks[block][word] |= mask;
            self.occupied[block / 64] |= 1 << (block % 64);
        });
    }

    /// Adds the pages of `range` whose bits are set in `word`, number `index` of a bitmap of that
    /// range: bit 0 of word 0 is its first page. Bits beyond the range are left out.
    pub fn insert_word(&mut self, range: PageRange, index: usize, mut word: u64) {
        while word != 0 {
            let first = u64::from(word.trailing_zeros());
            let page = index as u64 * 64 + first;
            let count = u64::from((word >> first).trailing_ones());
            let count = count.min(range.count.0.saturating_sub(page));
            if count == 0 {
                return;
            }
            self.insert(PageRange::new(range.first.0 + page, count));
            word &= !((u64::MAX >> (64 - count)) << first);
        }
    }

    /// Removes the pages of `range`.
    pub fn remove(&mut self, range: PageRange) {
        for_each_mask(range, self.pages, |block, word, mask| {
            let (group, bit) = (block / 64, 1 << (block % 64));
            if self.occupied[group] & bit != 0 {
                self.blocks[block][word] &= !mask;
                if self.blocks[block] == [0; BLOCK_WORDS] {
                    self.occupied[group] &= !bit;
                }
            }
        });
    }

    /// Adds every page of `other`, a set of the same layout.
    pub fn union(&mut self, other: &Self) {
        debug_assert_eq!(self.pages, other.pages, "sets of one layout");
        for group in 0..other.groups() {
            for index in blocks_of(group, other.occupied(group)) {
                for (word, more) in self.blocks[index].iter_mut().zip(&other.blocks[index]) {
                    *word |= more;
                }
            }
            self.occupied[group] |= other.occupied(group);
        }
    }

    /// Adds every page of `other` that is not in `except`; sets of the same layout.
    pub(crate) fn union_without(&mut self, other: &Self, except: &Self) {
        for group in 0..other.groups() {
            for index in blocks_of(group, other.occupied(group)) {
                let (more, except) = (other.blocks[index], except.blocks[index]);
                let here = self.blocks[index];
                let word = |word: usize| here[word] | (more[word] & !except[word]);
                self.set_block(index, std::array::from_fn(word));
            }
        }
    }

    /// How many pages are in both sets.
    pub fn common(&self, other: &Self) -> PageCount {
        let mut count = 0;
        for group in 0..self.groups() {
            for index in blocks_of(group, self.occupied(group) & other.occupied(group)) {
                let words = self.blocks[index].iter().zip(&other.blocks[index]);
                count += words
                    .map(|(a, b)| u64::from((a & b).count_ones()))
                    .sum::<u64>();
            }
        }
        PageCount(count)
    }

    /// Groups of 64 blocks.
    pub(crate) fn groups(&self) -> usize {
        self.occupied.len()
    }

    /// Which blocks of group number `group` have pages, a bit each: see [`blocks_of`].
    pub(crate) fn occupied(&self, group: usize) -> u64 {
        self.occupied[group]
    }

    /// Block number `index`.
    pub(crate) fn block(&self, index: usize) -> &Block {
        &self.blocks[index]
    }

    /// Makes block number `index` hold exactly the pages of `block`. Bits beyond the layout are 0.
    pub(crate) fn set_block(&mut self, index: usize, block: Block) {
        self.blocks[index] = block;
        let (group, bit) = (index / 64, 1 << (index % 64));
        match block == [0; BLOCK_WORDS] {
            true => self.occupied[group] &= !bit,
            false => self.occupied[group] |= bit,
        }
    }

    /// Removes all pages.
    pub fn clear(&mut self) {
        for group in 0..self.groups() {
            for index in blocks_of(group, std::mem::take(&mut self.occupied[group])) {
                self.blocks[index] = [0; BLOCK_WORDS];
            }
        }
    }

    /// The first run of pages in the set that starts at `from` or later, at most `limit` long.
    pub fn next_run(&self, from: u64, limit: u64) -> Option<PageRange> {
        let first = self.find(from..self.pages, true)?;
        // Not beyond: most of a memory may be one run, and it is handed out in small pieces.
        let most = first.saturating_add(limit).min(self.pages);
        let end = self.find(first..most, false).unwrap_or(most);
        Some(PageRange::new(first, end - first))
    }

    /// All runs of pages in the set, in order.
    pub fn runs(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.runs_in(PageRange::new(0, self.pages))
    }

    /// The runs of pages that are both in the set and in `within`, in order.
    pub fn runs_in(&self, within: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        let (mut at, end) = (within.first.0, within.end().min(self.pages));
        std::iter::from_fn(move || {
            let first = self.find(at..end, true)?;
            at = self.find(first..end, false).unwrap_or(end);
            Some(PageRange::new(first, at - first))
        })
    }

    /// The first page of `within`, a part of the layout, that is (or is not) in the set.
    fn find(&self, within: Range<u64>, present: bool) -> Option<u64> {
        let flip = if present { 0 } else { u64::MAX };
        let mut at = within.start;
        while at < within.end {
            let block = block_of(at);
            if self.occupied[block / 64] & 1 << (block % 64) == 0 {
                if !present {
                    return Some(at);
                }
                at = self.next_occupied(block)? as u64 * BLOCK_PAGES;
                continue;
            }
            let mut mask = u64::MAX << (at % 64);
            let first = (at % BLOCK_PAGES / 64) as usize;
            for (number, word) in self.blocks[block].iter().enumerate().skip(first) {
                let found = (word ^ flip) & mask;
                if found != 0 {
                    let place = number as u64 * 64 + u64::from(found.trailing_zeros());
                    let page = block as u64 * BLOCK_PAGES + place;
                    return (page < within.end).then_some(page);
                }
                mask = u64::MAX;
            }
            at = (block as u64 + 1) * BLOCK_PAGES;
        }
        None
    }

    /// The first block after `block` that has pages.
    fn next_occupied(&self, block: usize) -> Option<usize> {
        let mut mask = !1 << (block % 64);
        for group in block / 64..self.groups() {
            if let Some(next) = blocks_of(group, self.occupied(group) & mask).next() {
                return Some(next);
            }
            mask = u64::MAX;
        }
        None
    }
}

impl Clone for PageBitmap {
    /// Takes memory for what is in the set.
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.capacity());
        copy.union(self);
        copy
    }
}

impl PartialEq for PageBitmap {
    fn eq(&self, other: &Self) -> bool {
        let same = |index: usize| self.blocks[index] == other.blocks[index];
        self.pages == other.pages
            && self.occupied == other.occupied
            && (0..self.groups()).all(|group| blocks_of(group, self.occupied(group)).all(same))
    }
}

impl Eq for PageBitmap {}

/// The blocks of group number `group` whose bits are set in `bits`.
pub(crate) fn blocks_of(group: usize, mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(group * 64 + bit)
    })
}

/// Calls `take` with each word that holds pages of `range`, by its block and its number in there, and
/// the bits of these pages in it; of `pages` pages, without those beyond.
fn for_each_mask(range: PageRange, pages: u64, mut take: impl FnMut(usize, usize, u64)) {
    let end = range.end().min(pages);
    let mut at = range.first.0;
    while at < end {
        let stop = end.min((at / 64 + 1) * 64);
        let width = stop - at;
        let mask = (u64::MAX >> (64 - width)) << (at % 64);
        take(block_of(at), (at % BLOCK_PAGES / 64) as usize, mask);
        at = stop;
    }
}

fn block_of(page: u64) -> usize {
    usize::try_from(page / BLOCK_PAGES).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
