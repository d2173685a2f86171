//! How often each page was written lately: which pages are worth sending late.
//!
//! A page that is written in every round is sent in every round, and only the last time counts.
//! Such pages may as well wait for the downtime, as far as the downtime has room for them; rounds
//! of the other pages are then shorter, and in shorter rounds the guest writes fewer pages.
//!
//! Every page has a counter from 0 to [`HOTTEST`]: a harvest that finds the page written adds one,
//! another one halves it. So a page of a hot set that was missed once is still hot, and a page that
//! was written in a burst is forgotten after a few rounds. (A counter that a miss sets to zero held
//! back fewer pages that were worth it: with 5000 pages written three times a second each it took
//! 20 rounds where this one takes 13.)
//!
//! Counters are kept bit by bit in three sets of pages: 96 KiB per GiB of guest that was written
//! lately, and a harvest costs a dozen instructions for 64 pages of it.
//!
//! It does not decide how many pages wait: that is the policy's, see
//! [`Policy::hold_back`](crate::converge::Policy::hold_back).

use crate::memory::{PageBitmap, blocks_of};
use crate::units::PageCount;

/// The most that a page's counter shows.
const HOTTEST: u8 = 7;

/// What a page's counter must show for the page to be held back: it was written in the last two
/// harvests, or in several of the last few.
const HOT: u8 = 2;

/// Counters of all pages of a layout.
#[derive(Debug)]
pub(super) struct Heat {
    /// The counters' bits, the lowest first.
    bits: [PageBitmap; 3],
}

impl Heat {
    /// All pages of a layout of `pages` are cold.
    pub(super) fn new(pages: PageCount) -> Self {
        Self {
            bits: std::array::from_fn(|_| PageBitmap::new(pages)),
        }
    }

    /// A harvest found `dirty` written, and all others not.
    pub(super) fn harvested(&mut self, dirty: &PageBitmap) {
        let [low, middle, high] = &mut self.bits;
        for group in 0..dirty.groups() {
            let warm = low.occupied(group) | middle.occupied(group) | high.occupied(group);
            for index in blocks_of(group, warm | dirty.occupied(group)) {
                let dirty = dirty.block(index);
                let mut counters = [*low.block(index), *middle.block(index), *high.block(index)];
                for (word, &dirty) in dirty.iter().enumerate() {
                    let [one, two, four] = counters.map(|bits| bits[word]);
                    // Those that were written count up, but stay at the most.
                    let full = one & two & four;
                    let up = [!one | full, (two ^ one) | full, (four ^ (two & one)) | full];
                    // The others are halved: each bit takes the place of the one below.
                    counters[0][word] = (up[0] & dirty) | (two & !dirty);
                    counters[1][word] = (up[1] & dirty) | (four & !dirty);
                    counters[2][word] = up[2] & dirty;
                }
                low.set_block(index, counters[0]);
                middle.set_block(index, counters[1]);
                high.set_block(index, counters[2]);
            }
        }
    }

    /// Moves the hottest pages of `from`, at most `most`, to `held`. Pages of equal heat are taken
    /// in address order.
    pub(super) fn hold_back(&self, from: &mut PageBitmap, held: &mut PageBitmap, most: PageCount) {
        let mut room = most.0;
        for level in (HOT..=HOTTEST).rev() {
            for group in 0..from.groups() {
                if room == 0 {
                    return;
                }
                for index in blocks_of(group, from.occupied(group)) {
                    room -= self.hold_back_block(index, level, from, held, room);
                }
            }
        }
    }

    /// The same for those of block number `index` whose counters show `level`; how many these were.
    fn hold_back_block(
        &self,
        index: usize,
        level: u8,
        from: &mut PageBitmap,
        held: &mut PageBitmap,
        most: u64,
    ) -> u64 {
        let (mut left, mut moved) = (*from.block(index), *held.block(index));
        let mut room = most;
        for word in 0..left.len() {
            let mut taken = left[word] & self.at_level(index, word, level);
            while u64::from(taken.count_ones()) > room {
                taken &= !(1 << (63 - taken.leading_zeros()));
            }
            room -= u64::from(taken.count_ones());
            left[word] &= !taken;
            moved[word] |= taken;
        }
        if room < most {
            from.set_block(index, left);
            held.set_block(index, moved);
        }
        most - room
    }

    /// The pages of word number `word` in block number `index` whose counters show `level`.
    fn at_level(&self, index: usize, word: usize, level: u8) -> u64 {
        self.bits
            .iter()
            .enumerate()
            .map(|(bit, set)| {
                let word = set.block(index)[word];
                if level >> bit & 1 == 1 { word } else { !word }
            })
            .fold(u64::MAX, |all, word| all & word)
    }
}

#[cfg(test)]
mod order;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PageRange;
    use proptest::prelude::*;

    fn set(pages: u64, members: &[u64]) -> PageBitmap {
        let mut set = PageBitmap::new(PageCount(pages));
        for &page in members {
            set.insert(PageRange::new(page, 1));
        }
        set
    }

    fn members(set: &PageBitmap) -> Vec<u64> {
        set.runs().flat_map(|run| run.indices()).collect()
    }

    #[test]
    fn the_hottest_are_held_back_first_and_no_more_than_may() {
        let mut heat = Heat::new(PageCount(200));
        heat.harvested(&set(200, &[5, 70, 150, 199]));
        heat.harvested(&set(200, &[5, 70, 150]));
        heat.harvested(&set(200, &[70, 150]));
        let mut from = set(200, &[5, 6, 70, 150, 199]);
        let mut held = PageBitmap::new(PageCount(200));
        heat.hold_back(&mut from, &mut held, PageCount(1));
        assert_eq!(
            (members(&from), members(&held)),
            (vec![5, 6, 150, 199], vec![70])
        );
        // Page 5 was written twice and then not: no longer hot.
        heat.hold_back(&mut from, &mut held, PageCount(10));
        assert_eq!(
            (members(&from), members(&held)),
            (vec![5, 6, 199], vec![70, 150])
        );
    }

    #[test]
    fn a_page_that_is_not_to_be_sent_is_not_held_back() {
        let mut heat = Heat::new(PageCount(64));
        for _ in 0..9 {
            heat.harvested(&set(64, &[1, 2]));
        }
        let mut from = set(64, &[2]);
        let mut held = PageBitmap::new(PageCount(64));
        heat.hold_back(&mut from, &mut held, PageCount(10));
        assert_eq!(members(&held), [2]);
    }

    proptest! {
        /// Against counters of integers.
        #[test]
        fn counts_up_and_halves(
            harvests in prop::collection::vec(
                prop::collection::btree_set(0u64..130, 0..130),
                0..12,
            ),
            most in 0u64..140,
        ) {
            let mut heat = Heat::new(PageCount(130));
            let mut oracle = [0u8; 130];
            for harvest in &harvests {
                let dirty: Vec<u64> = harvest.iter().copied().collect();
                heat.harvested(&set(130, &dirty));
                for (page, count) in oracle.iter_mut().enumerate() {
                    *count = match harvest.contains(&(page as u64)) {
                        true => (*count + 1).min(HOTTEST),
                        false => *count / 2,
                    };
                }
            }
            let mut hot: Vec<u64> = (0..130).filter(|&page| oracle[page as usize] >= HOT).collect();
            hot.sort_by_key(|&page| (std::cmp::Reverse(oracle[page as usize]), page));
            hot.truncate(most as usize);
            hot.sort_unstable();
            let mut from = PageBitmap::new(PageCount(130));
            from.insert(PageRange::new(0, 130));
            let mut held = PageBitmap::new(PageCount(130));
            heat.hold_back(&mut from, &mut held, PageCount(most));
            prop_assert_eq!(members(&held), hot);
            prop_assert_eq!(from.count().0 + held.count().0, 130);
        }
    }
}
