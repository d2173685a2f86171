//! Pages of this migration that the target has placed: the same content may be sent again as a
//! reference to one of them.
//!
//! A table of fixed size by fingerprint, where a newer page takes the place of an older one, and
//! for each page of the guest the round it was sent in last, so that an entry whose page was
//! sent again since is not used. All of it is a hint: the target looks at the content.
//!
//! Memory: 16 bytes a slot, at most 4 MiB, and a byte a page. Cost: one lock, seldom disputed,
//! and one access that is seldom in a cache.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::units::{ByteCount, PageCount, PageIndex};

/// Most slots.
const MOST_SLOTS: u64 = 1 << 18;

/// Locks for them.
const SHARDS: usize = 64;

/// Which frame carries a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its round, from 1.
    pub round: u32,
    /// Its channel.
    pub channel: u16,
    /// Its number on that channel.
    pub number: u64,
}

/// Where the guest's contents are at the target.
#[derive(Debug)]
pub struct SentPages {
    shards: Box<[Mutex<Box<[Slot]>>]>,
    /// By page: the low bits of the last round it was sent in; 0 if it never was.
    rounds: Box<[AtomicU8]>,
}

/// A page that was sent whole. Numbers that do not fit make a wrong hint at worst.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Bits of the fingerprint that its place does not say; 0 if there is no page.
    check: u32,
    page: u32,
    frame: u32,
    channel: u16,
    round: u16,
}

impl SentPages {
    /// For a guest of `pages` pages.
    pub fn new(pages: PageCount) -> Self {
        let slots = usize::try_from(slots(pages)).unwrap_or(SHARDS);
        let shard = || Mutex::new(vec![Slot::default(); slots / SHARDS].into());
        let pages = usize::try_from(pages.0).unwrap_or(usize::MAX);
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            rounds: (0..pages).map(|_| AtomicU8::new(0)).collect(),
        }
    }

    /// Memory it takes for a guest of `pages` pages.
    pub fn footprint(pages: PageCount) -> ByteCount {
        ByteCount(slots(pages) * size_of::<Slot>() as u64 + pages.0)
    }

    /// `page` goes with `round`, in any way: what it held before is no longer there.
    pub fn touch(&self, page: PageIndex, round: u32) {
        if let Some(own) = self.round_of(page) {
            own.store(round_bits(round), Ordering::Relaxed);
        }
    }

    /// `page`, [touched](Self::touch) for this round, goes with `frame` with the content of this
    /// fingerprint.
    pub fn note(&self, fingerprint: u64, page: PageIndex, frame: Frame) {
        let Ok(page) = u32::try_from(page.0) else {
            return;
        };
        let (mut shard, at) = self.slot(fingerprint);
        shard[at] = Slot {
            check: check_of(fingerprint),
            page,
            frame: frame.number as u32,
            channel: frame.channel,
            round: frame.round as u16,
        };
    }

    /// A page that the target will have, with the content of this fingerprint, before `frame`:
    /// one of an earlier round, of an earlier frame of the channel, or of a frame that the
    /// target has said to have placed. `placed` holds how many frames of each channel those are.
    pub fn find(&self, fingerprint: u64, frame: Frame, placed: &[u64]) -> Option<PageIndex> {
        let (shard, at) = self.slot(fingerprint);
        let slot = shard[at];
        drop(shard);
        let page = PageIndex(slot.page.into());
        let last_round = self.round_of(page)?.load(Ordering::Relaxed);
        if slot.check != check_of(fingerprint) || last_round != round_bits(slot.round.into()) {
            return None;
        }
        let is_placed = || {
            let placed = placed.get(usize::from(slot.channel));
            placed.is_some_and(|placed| u64::from(slot.frame) < *placed)
        };
        let earlier_round = u32::from(slot.round) < frame.round;
        let same_channel = slot.channel == frame.channel && u64::from(slot.frame) < frame.number;
        (earlier_round || same_channel || is_placed()).then_some(page)
    }

    fn round_of(&self, page: PageIndex) -> Option<&AtomicU8> {
        self.rounds.get(usize::try_from(page.0).ok()?)
    }

    fn slot(&self, fingerprint: u64) -> (MutexGuard<'_, Box<[Slot]>>, usize) {
        let shard = &self.shards[fingerprint as usize % SHARDS];
        // A thread that panicked has ended the migration; a slot is a hint in any case.
        let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let at = fingerprint as usize / SHARDS % shard.len();
        (shard, at)
    }
}

/// Never 0.
fn check_of(fingerprint: u64) -> u32 {
    ((fingerprint >> 32) as u32).max(1)
}

/// Never 0: that is a page that was never sent.
fn round_bits(round: u32) -> u8 {
    (round % 255) as u8 + 1
}

/// A multiple of the number of shards.
fn slots(pages: PageCount) -> u64 {
    pages.0.next_power_of_two().clamp(SHARDS as u64, MOST_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: PageIndex = PageIndex(5);

    fn frame(round: u32, channel: u16, number: u64) -> Frame {
        Frame {
            round,
            channel,
            number,
        }
    }

    fn sent() -> SentPages {
        let sent = SentPages::new(PageCount(100));
        sent.touch(PAGE, 2);
        sent.note(77 << 32 | 9, PAGE, frame(2, 1, 10));
        sent
    }

    #[test]
    fn a_page_counts_once_it_is_placed_for_certain() {
        let sent = sent();
        let find = |round, channel, number, placed| {
            sent.find(77 << 32 | 9, frame(round, channel, number), &[0, placed])
        };
        assert_eq!(find(2, 1, 11, 0), Some(PAGE), "later on the same channel");
        assert_eq!(find(2, 1, 10, 0), None, "in the same frame");
        assert_eq!(find(2, 0, 11, 10), None, "elsewhere, not placed");
        assert_eq!(find(2, 0, 11, 11), Some(PAGE), "elsewhere, placed");
        assert_eq!(find(3, 0, 0, 0), Some(PAGE), "in a later round");
        assert_eq!(sent.find(78 << 32 | 9, frame(3, 0, 0), &[]), None);
    }

    #[test]
    fn a_page_that_was_sent_again_does_not_count() {
        let sent = sent();
        sent.touch(PAGE, 3);
        assert_eq!(sent.find(77 << 32 | 9, frame(4, 0, 0), &[]), None);
    }

    #[test]
    fn an_empty_table_finds_nothing_and_pages_outside_are_ignored() {
        let sent = SentPages::new(PageCount(0));
        assert_eq!(sent.find(1 << 32, frame(1, 0, 0), &[1]), None);
        sent.touch(PAGE, 1);
        sent.note(1 << 32, PAGE, frame(1, 0, 0));
        assert_eq!(sent.find(1 << 32, frame(2, 0, 0), &[]), None);
        assert_eq!(
            SentPages::footprint(PageCount(1 << 40)).0 - (1 << 40),
            4 << 20
        );
    }
}
