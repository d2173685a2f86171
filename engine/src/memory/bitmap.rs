//! A set of pages, one bit each.
//!
//! 32 KiB per GiB of guest memory. Finding the next run costs one load per 64 pages before it that are
//! not in the set, and one per 64 pages of the run, as far as it is asked for.

use std::ops::Range;

use crate::units::{PageCount, PageRange};

/// A set of the pages of one layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageBitmap {
    words: Vec<u64>,
    pages: u64,
}

impl PageBitmap {
    /// The empty set for a layout of `pages` pages.
    pub fn new(pages: PageCount) -> Self {
        Self {
            words: vec![0; usize::try_from(pages.0.div_ceil(64)).unwrap_or(usize::MAX)],
            pages: pages.0,
        }
    }

    /// Pages of the layout, in the set or not.
    pub fn capacity(&self) -> PageCount {
        PageCount(self.pages)
    }

    /// Whether no page is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Number of pages in the set.
    pub fn count(&self) -> PageCount {
        PageCount(
            self.words
                .iter()
                .map(|word| u64::from(word.count_ones()))
                .sum(),
        )
    }

    /// Number of pages that are both in the set and in `range`. Costs one load per 64 pages of it.
    pub fn count_in(&self, range: PageRange) -> PageCount {
        let mut count = 0;
        for_each_mask(range, self.pages, |word, mask| {
            count += u64::from((self.words[word] & mask).count_ones());
        });
        PageCount(count)
    }

    /// Whether page number `page` is in the set.
    pub fn contains(&self, page: u64) -> bool {
        page < self.pages && self.words[word_of(page)] & bit_of(page) != 0
    }

    /// Adds the pages of `range`; those beyond the layout are left out.
    pub fn insert(&mut self, range: PageRange) {
        for_each_mask(range, self.pages, |word, mask| self.words[word] |= mask);
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
        for_each_mask(range, self.pages, |word, mask| self.words[word] &= !mask);
    }

    /// Adds every page of `other`, a set of the same layout.
    pub fn union(&mut self, other: &Self) {
        debug_assert_eq!(self.pages, other.pages, "sets of one layout");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// How many pages are in both sets.
    pub fn common(&self, other: &Self) -> PageCount {
        let words = self.words.iter().zip(&other.words);
        PageCount(words.map(|(a, b)| u64::from((a & b).count_ones())).sum())
    }

    /// The set as words of 64 pages, the lowest page in the lowest bit.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// The same, to change. Bits beyond the layout must stay 0.
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Removes all pages.
    pub fn clear(&mut self) {
        self.words.fill(0);
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
        if within.is_empty() {
            return None;
        }
        let flip = if present { 0 } else { u64::MAX };
        let (first, last) = (word_of(within.start), word_of(within.end - 1));
        let mut mask = u64::MAX << (within.start % 64);
        for (index, word) in (first..).zip(&self.words[first..=last]) {
            let found = (word ^ flip) & mask;
            if found != 0 {
                let page = index as u64 * 64 + u64::from(found.trailing_zeros());
                return (page < within.end).then_some(page);
            }
            mask = u64::MAX;
        }
        None
    }
}

/// Calls `take` with the index of each word that holds pages of `range`, and their bits in it; of
/// `pages` pages, without those beyond.
fn for_each_mask(range: PageRange, pages: u64, mut take: impl FnMut(usize, u64)) {
    let end = range.end().min(pages);
    let mut at = range.first.0;
    while at < end {
        let stop = end.min((at / 64 + 1) * 64);
        let width = stop - at;
        let mask = if width == 64 {
            u64::MAX
        } else {
            ((1 << width) - 1) << (at % 64)
        };
        take(word_of(at), mask);
        at = stop;
    }
}

fn word_of(page: u64) -> usize {
    usize::try_from(page / 64).unwrap_or(usize::MAX)
}

fn bit_of(page: u64) -> u64 {
    1 << (page % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a set of integers: inserts, removals, counting and runs agree.
        #[test]
        fn behaves_like_a_set_of_integers(
            pages in 1u64..300,
            steps in prop::collection::vec((any::<bool>(), 0u64..320, 0u64..150), 0..40),
        ) {
            let mut bitmap = PageBitmap::new(PageCount(pages));
            let mut oracle: BTreeSet<u64> = BTreeSet::new();
            for (insert, first, count) in steps {
                let range = PageRange::new(first, count);
                let within = oracle.range(first..range.end()).count();
                prop_assert_eq!(bitmap.count_in(range).0, within as u64);
                if insert {
                    bitmap.insert(range);
                    oracle.extend(range.indices().filter(|page| *page < pages));
                } else {
                    bitmap.remove(range);
                    oracle.retain(|page| !range.indices().contains(page));
                }
            }
            prop_assert_eq!(bitmap.count().0, oracle.len() as u64);
            prop_assert_eq!(bitmap.is_empty(), oracle.is_empty());
            let runs: Vec<_> = bitmap.runs().collect();
            let listed: Vec<u64> = runs.iter().flat_map(|run| run.indices()).collect();
            prop_assert_eq!(listed, oracle.iter().copied().collect::<Vec<_>>());
            prop_assert!(runs.windows(2).all(|two| two[0].end() < two[1].first.0), "maximal");
            for page in 0..pages {
                prop_assert_eq!(bitmap.contains(page), oracle.contains(&page));
            }
        }

        #[test]
        fn the_next_run_is_the_next_pages_in_the_set_up_to_the_limit(
            pages in prop::collection::vec(any::<bool>(), 1..300),
            solid in 0usize..300,
            (from, limit) in (0u64..310, 1u64..200),
        ) {
            // With a long run, which random pages do not have.
            let present = |page: usize| page < pages.len() && (pages[page] || page >= solid);
            let mut bitmap = PageBitmap::new(PageCount(pages.len() as u64));
            for page in (0..pages.len()).filter(|page| present(*page)) {
                bitmap.insert(PageRange::new(page as u64, 1));
            }
            let first = (from as usize..pages.len()).find(|page| present(*page));
            let run = first.map(|first| {
                let run = (first..).take(limit as usize).take_while(|page| present(*page));
                PageRange::new(first as u64, run.count() as u64)
            });
            prop_assert_eq!(bitmap.next_run(from, limit), run);
        }
    }
}
