//! The send set: which pages are to be sent, in this round or later.
//!
//! Invariant: a page of a round is taken out of `pending` when it is handed to a channel, where it
//! is in flight from then on. Pages that are held back wait in `held`; pages that were handed out
//! and written since are with the [mid-round harvests](super::mid_round_harvest).

use std::time::Duration;

use super::heat::Heat;
use super::mid_round_harvest::MidRoundHarvest;
use crate::memory::PageBitmap;
use crate::units::{Instant, PageCount, PageRange};

/// The pages that are still to be sent.
#[derive(Debug)]
pub(super) struct SendSet {
    /// Pages of this round that no channel has taken yet.
    pending: PageBitmap,
    /// How many those are, as of the last count.
    left: u64,
    /// Where the next run of them is looked for.
    cursor: u64,
    /// Pages that wait for a later round, or for the downtime.
    held: PageBitmap,
    /// Pages that were held back in the round under way, or in the one that is over.
    held_pages: u64,
    /// Those of them that were written in the round that is over.
    held_written: u64,
    heat: Heat,
    mid_round: MidRoundHarvest,
    /// Pages of the last round that were found while the last harvest went on, and are handed out
    /// already, or may be.
    found: PageBitmap,
}

impl SendSet {
    /// For a memory of `pages`, none of which is to be sent.
    pub(super) fn new(pages: PageCount) -> Self {
        Self {
            pending: PageBitmap::new(pages),
            left: 0,
            cursor: 0,
            held: PageBitmap::new(pages),
            held_pages: 0,
            held_written: 0,
            heat: Heat::new(pages),
            mid_round: MidRoundHarvest::new(pages),
            found: PageBitmap::new(pages),
        }
    }

    /// Pages of the round that no channel has taken yet.
    pub(super) fn left(&self) -> PageCount {
        PageCount(self.left)
    }

    /// Pages that were held back in the round under way, or in the one that is over.
    pub(super) fn held(&self) -> PageCount {
        PageCount(self.held_pages)
    }

    /// Those of the held ones that were written in the round that is over.
    pub(super) fn held_written(&self) -> PageCount {
        PageCount(self.held_written)
    }

    /// `pages` are to be sent.
    pub(super) fn add(&mut self, pages: &PageBitmap) {
        self.pending.union(pages);
    }

    /// The round under way is to send `page` as well. It may have sent it before.
    pub(super) fn add_to_round(&mut self, page: u64) {
        if !self.pending.contains(page) {
            self.pending.insert(PageRange::new(page, 1));
            self.left += 1;
            self.cursor = self.cursor.min(page);
        }
    }

    /// The round is over, and `dirty` was harvested after it.
    pub(super) fn harvested(&mut self, dirty: &PageBitmap) {
        self.mid_round.end(dirty, &mut self.pending);
    }

    /// Learns from the round that is over, and takes back what was held. Returns the number of
    /// distinct pages that the guest wrote in it.
    pub(super) fn close_round(&mut self) -> PageCount {
        let written = self.mid_round.written();
        self.heat.harvested(written);
        self.held_written = written.common(&self.held).0;
        let written = written.count();
        self.take_back_held();
        let again = self.pending.count().0 - self.held_pages;
        self.mid_round.learn(written.0 - self.held_written, again);
        written
    }

    /// The last harvest begins to find pages, which go first: all others wait until it is over, since
    /// it may find them as well, and a page goes once.
    pub(super) fn hold_all(&mut self) {
        self.held.union(&self.pending);
        self.pending.clear();
    }

    /// `part` was found by the last harvest.
    pub(super) fn harvested_in_part(&mut self, part: &PageBitmap) {
        self.pending.union_without(part, &self.found);
        self.found.union(part);
        self.cursor = 0;
        self.count();
    }

    /// The last harvest is over; beside what it has told in parts it found `dirty`. All there is goes,
    /// what was held as well.
    pub(super) fn harvested_last(&mut self, dirty: &PageBitmap) {
        self.mid_round.end(dirty, &mut self.held);
        self.pending.union_without(&self.held, &self.found);
        self.held.clear();
        self.held_pages = 0;
        self.found.clear();
        self.cursor = 0;
        self.count();
    }

    /// Counts what the next round has to send.
    pub(super) fn count(&mut self) {
        self.left = self.pending.count().0;
    }

    /// Takes the hottest pages out of the coming round, at most `most`.
    pub(super) fn hold_back(&mut self, most: PageCount) {
        self.heat.hold_back(&mut self.pending, &mut self.held, most);
        self.held_pages = self.held.count().0;
        self.left -= self.held_pages;
    }

    /// A round begins.
    pub(super) fn begin_round(&mut self, now: Instant) {
        self.cursor = 0;
        self.count();
        self.mid_round.begin(now, self.left);
    }

    /// Takes at most `most` pages of the round out, as runs in ascending order.
    pub(super) fn take(&mut self, most: u64, runs: &mut Vec<PageRange>) {
        let mut room = most;
        while room > 0
            && let Some(run) = self.pending.next_run(self.cursor, room)
        {
            self.pending.remove(run);
            self.cursor = run.end();
            self.left -= run.count.0;
            room -= run.count.0;
            runs.push(run);
        }
    }

    /// Whether what was written so far is to be harvested while the round goes on; the last
    /// harvest `took` so long.
    pub(super) fn is_harvest_due(&self, now: Instant, took: Duration) -> bool {
        self.mid_round.is_due(now, self.left, took)
    }

    /// `dirty` was harvested while the round goes on.
    pub(super) fn harvested_within(&mut self, now: Instant, dirty: &PageBitmap) {
        self.mid_round
            .harvested(now, dirty, &self.pending, self.left);
    }

    /// Adds all pages that are still to be sent.
    pub(super) fn add_unsent(&self, into: &mut PageBitmap) {
        into.union(&self.pending);
        into.union(&self.held);
        self.mid_round.give_back(into);
    }

    fn take_back_held(&mut self) {
        self.pending.union(&self.held);
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: &[u64]) -> PageBitmap {
        let mut set = PageBitmap::new(PageCount(100));
        for &page in members {
            set.insert(PageRange::new(page, 1));
        }
        set
    }

    fn round(pages: &mut SendSet) -> Vec<u64> {
        pages.begin_round(Instant(0));
        let mut runs = Vec::new();
        pages.take(100, &mut runs);
        runs.iter().flat_map(|run| run.indices()).collect()
    }

    #[test]
    fn hot_pages_wait_until_nothing_is_held_back() {
        let mut pages = SendSet::new(PageCount(100));
        for _ in 0..3 {
            pages.harvested(&set(&[7, 8]));
            assert_eq!(pages.close_round(), PageCount(2));
            pages.count();
            assert_eq!(round(&mut pages), [7, 8]);
        }
        pages.harvested(&set(&[7, 50]));
        pages.close_round();
        pages.count();
        pages.hold_back(PageCount(5));
        assert_eq!((pages.left(), pages.held()), (PageCount(1), PageCount(1)));
        assert_eq!(round(&mut pages), [50]);
        let mut unsent = set(&[]);
        pages.add_unsent(&mut unsent);
        assert_eq!(unsent, set(&[7]));
        pages.harvested_last(&set(&[7]));
        assert_eq!(round(&mut pages), [7]);
    }

    #[test]
    fn the_last_round_sends_each_page_once_though_it_is_found_in_parts() {
        let mut pages = SendSet::new(PageCount(100));
        pages.add(&set(&[1, 2, 3]));
        pages.begin_round(Instant(0));
        let mut runs = Vec::new();
        pages.take(1, &mut runs);
        // Page 1 was sent and is written again; 2 and 3 are still to be sent.
        pages.harvested_within(Instant(0), &set(&[1]));
        let mut take = |pages: &mut SendSet| {
            runs.clear();
            pages.take(100, &mut runs);
            let taken: Vec<u64> = runs.iter().flat_map(|run| run.indices()).collect();
            taken
        };
        pages.hold_all();
        assert_eq!(take(&mut pages), [], "they may be found yet");
        pages.harvested_in_part(&set(&[2, 50]));
        assert_eq!(take(&mut pages), [2, 50]);
        pages.harvested_in_part(&set(&[1, 50, 7]));
        let mut unsent = set(&[]);
        pages.add_unsent(&mut unsent);
        assert_eq!(unsent, set(&[1, 2, 3, 7]), "2 is in flight as well");
        assert_eq!(take(&mut pages), [1, 7]);
        pages.harvested_last(&set(&[50, 9]));
        assert_eq!(take(&mut pages), [3, 9]);
        assert_eq!(pages.left(), PageCount(0));
    }

    #[test]
    fn a_page_is_taken_once_a_round_unless_it_is_added_again() {
        let mut pages = SendSet::new(PageCount(100));
        pages.add(&set(&[3, 4, 9]));
        pages.begin_round(Instant(0));
        let mut runs = Vec::new();
        pages.take(2, &mut runs);
        assert_eq!(runs, [PageRange::new(3, 2)]);
        pages.add_to_round(4);
        pages.add_to_round(9);
        assert_eq!(pages.left(), PageCount(2));
        runs.clear();
        pages.take(9, &mut runs);
        assert_eq!(runs, [PageRange::new(4, 1), PageRange::new(9, 1)]);
    }
}
