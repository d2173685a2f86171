//! Mid-round harvests: a page that is written before its turn need not go twice.
//!
//! A harvest clears the dirty marks of all pages. With one harvest a round, every page that was written
//! since the round began goes again, although those that were written before their turn went as
//! they had become. With a few harvests in between it is known: what one of them finds written and
//! still waiting for its turn waits on, and goes once; what was handed out before goes again in
//! the next round. Of uniform writes to a set that is sent in every round, that is up to half
//! (docs/decisions/031).
//!
//! Correct in any order of events: a mark is cleared before it is decided whether its page still
//! waits, and a page that waits is read later. The barrier between rounds stays: no page goes
//! twice within one.
//!
//! What it costs the guest: the first write to a page after each harvest is a fault of a microsecond
//! or two, so a page that is written all the time faults up to [`PARTS`] times a round. Where a
//! harvest finds nearly all of the pages again that were found before, or a round shows that next
//! to nothing was saved, the rest of the round and the rounds that follow do without. Harvests
//! take at most a twentieth of the time. Two sets of pages: 64 KiB per GiB of guest.

use std::time::Duration;

use crate::memory::PageBitmap;
use crate::units::{Instant, PageCount};

/// Harvests of a round, the one at its end included.
const PARTS: u64 = 6;

/// Time from one harvest to the next at least.
const APART: Duration = Duration::from_millis(80);

/// The same, in units of what the last harvest took.
const HARVESTS_APART: u32 = 20;

/// Least part of the pages written in a round that harvests within it must save.
const WORTH: f64 = 0.02;

/// Part of the pages found before that a harvest must find again for them to count as written all
/// the time.
const ALL_THE_TIME: f64 = 0.95;

/// Rounds that do without them where they saved less.
const ROUNDS_WITHOUT: u32 = 4;

/// What was written in the round under way.
#[derive(Debug)]
pub(super) struct MidRoundHarvest {
    /// Pages found written since the round began.
    written: PageBitmap,
    /// Those of them that were not waiting for their turn.
    again: PageBitmap,
    /// Pages of a part of the round.
    part: u64,
    /// The next harvest is due when no more than these wait for their turn; 0: none.
    due_at: u64,
    harvested_at: Instant,
    /// Whether there was one in this round.
    looked: bool,
    rounds_without: u32,
}

impl MidRoundHarvest {
    /// For a memory of `pages`.
    pub(super) fn new(pages: PageCount) -> Self {
        Self {
            written: PageBitmap::new(pages),
            again: PageBitmap::new(pages),
            part: 0,
            due_at: 0,
            harvested_at: Instant(0),
            looked: false,
            rounds_without: 0,
        }
    }

    /// A round of `pages` pages begins.
    pub(super) fn begin(&mut self, now: Instant, pages: u64) {
        self.written.clear();
        self.harvested_at = now;
        self.looked = false;
        self.part = pages / PARTS;
        self.due_at = pages - self.part;
        if self.part == 0 || self.rounds_without > 0 {
            self.rounds_without = self.rounds_without.saturating_sub(1);
            self.due_at = 0;
        }
    }

    /// Whether a harvest is due while `left` pages wait for their turn; the last one `took` so
    /// long.
    pub(super) fn is_due(&self, now: Instant, left: u64, took: Duration) -> bool {
        let apart = APART.max(took * HARVESTS_APART);
        left > 0 && left <= self.due_at && now.since(self.harvested_at) >= apart
    }

    /// `dirty` was harvested while the pages of `waiting`, `left` of them, wait for their turn.
    pub(super) fn harvested(
        &mut self,
        now: Instant,
        dirty: &PageBitmap,
        waiting: &PageBitmap,
        left: u64,
    ) {
        let (before, found_again) = (self.written.count().0, self.written.common(dirty).0);
        self.written.union(dirty);
        self.again.union_without(dirty, waiting);
        self.looked = true;
        self.harvested_at = now;
        self.due_at = left.saturating_sub(self.part);
        if before > 0 && found_again as f64 > before as f64 * ALL_THE_TIME {
            self.due_at = 0;
            self.rounds_without = ROUNDS_WITHOUT;
        }
    }

    /// The round is over, and `dirty` was harvested: what must go again is added to `next`.
    pub(super) fn end(&mut self, dirty: &PageBitmap, next: &mut PageBitmap) {
        self.written.union(dirty);
        next.union(dirty);
        self.give_back(next);
        self.again.clear();
    }

    /// Of the pages written in the round that is over, those that were not `held` back were so
    /// many, and of them so many go `again`.
    pub(super) fn learn(&mut self, written: u64, again: u64) {
        if self.looked && again as f64 > written as f64 * (1.0 - WORTH) {
            self.rounds_without = ROUNDS_WITHOUT;
        }
    }

    /// All pages written in the round that is over.
    pub(super) fn written(&self) -> &PageBitmap {
        &self.written
    }

    /// Adds the pages that must go again to `into`.
    pub(super) fn give_back(&self, into: &mut PageBitmap) {
        into.union(&self.again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PageRange;

    fn set(members: &[u64]) -> PageBitmap {
        let mut set = PageBitmap::new(PageCount(400));
        for &page in members {
            set.insert(PageRange::new(page, 1));
        }
        set
    }

    fn members(set: &PageBitmap) -> Vec<u64> {
        set.runs().flat_map(|run| run.indices()).collect()
    }

    fn at_ms(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn a_page_that_is_written_before_its_turn_goes_once() {
        let mut round = MidRoundHarvest::new(PageCount(400));
        round.begin(at_ms(0), 400);
        // 300 and 301 wait for their turn; 5 has had it.
        round.harvested(at_ms(200), &set(&[5, 300, 301]), &set(&[300, 301]), 2);
        let mut next = set(&[]);
        round.end(&set(&[301]), &mut next);
        assert_eq!(members(&next), [5, 301]);
        assert_eq!(members(round.written()), [5, 300, 301]);
        // The next round begins with nothing.
        round.begin(at_ms(300), 2);
        let mut next = set(&[]);
        round.end(&set(&[7]), &mut next);
        assert_eq!(
            (members(&next), members(round.written())),
            (vec![7], vec![7])
        );
    }

    #[test]
    fn harvests_come_at_each_part_and_not_too_often() {
        let mut round = MidRoundHarvest::new(PageCount(400));
        let took = Duration::from_millis(1);
        round.begin(at_ms(0), 400);
        assert!(!round.is_due(at_ms(500), 335, took), "not a part yet");
        assert!(!round.is_due(at_ms(79), 300, took), "too soon");
        assert!(!round.is_due(at_ms(100), 300, took * 6), "too dear");
        assert!(round.is_due(at_ms(100), 300, took));
        round.harvested(at_ms(100), &set(&[]), &set(&[]), 300);
        assert!(!round.is_due(at_ms(300), 235, took));
        assert!(round.is_due(at_ms(300), 150, took));
        round.harvested(at_ms(300), &set(&[]), &set(&[]), 150);
        assert!(round.is_due(at_ms(500), 50, took));
        round.harvested(at_ms(500), &set(&[]), &set(&[]), 50);
        assert!(!round.is_due(at_ms(900), 1, took), "the end is near");
        assert!(!round.is_due(at_ms(900), 0, took));
    }

    #[test]
    fn pages_that_are_written_all_the_time_are_left_alone() {
        let mut round = MidRoundHarvest::new(PageCount(400));
        let due = |round: &MidRoundHarvest| round.is_due(at_ms(9000), 50, Duration::ZERO);
        let hot: Vec<u64> = (0..100).collect();
        round.begin(at_ms(0), 400);
        round.harvested(at_ms(0), &set(&hot), &set(&[]), 300);
        assert!(due(&round));
        round.harvested(at_ms(0), &set(&hot[..80]), &set(&[]), 250);
        assert!(due(&round), "some were not written again");
        round.harvested(at_ms(0), &set(&hot[..99]), &set(&[]), 200);
        assert!(!due(&round));
        round.begin(at_ms(0), 400);
        assert!(!due(&round));
    }

    #[test]
    fn where_nothing_is_saved_the_next_rounds_do_without() {
        let mut round = MidRoundHarvest::new(PageCount(400));
        let due = |round: &MidRoundHarvest| round.is_due(at_ms(9000), 100, Duration::ZERO);
        round.begin(at_ms(0), 400);
        round.learn(100, 100);
        round.begin(at_ms(0), 400);
        assert!(due(&round), "there was no harvest to judge");
        round.harvested(at_ms(0), &set(&[]), &set(&[]), 300);
        round.learn(100, 99);
        for _ in 0..ROUNDS_WITHOUT {
            round.begin(at_ms(0), 400);
            assert!(!due(&round));
        }
        round.begin(at_ms(0), 400);
        assert!(due(&round));
        round.harvested(at_ms(0), &set(&[]), &set(&[]), 300);
        round.learn(100, 60);
        round.begin(at_ms(0), 400);
        assert!(due(&round));
    }
}
