//! Room for some pages: those that come up in most rounds.
//!
//! A page has sixteen places it can be in, its set. The [heat](super::heat) of every page is kept,
//! also of those that are not there, so that a page is judged by what it did and not only since it
//! was taken in. A page takes the place of the coldest of its set if it is hotter by more than one
//! step (what the coldest may still gain in this round, and what chance makes of equals), or if
//! that one is cold altogether: pages of the first round, which need not come up a second time.

use super::heat::{Heats, STEP};
use super::page_mut;
use crate::units::PAGE_BYTES;

/// Places in a set. More would hardly raise the hit rate, and make each miss dearer.
const WAYS: usize = 16;
/// Pages whose heats are cooled together: one line of a cache.
const GROUP: usize = 64;
/// Most pages of a shard, so that tags are numbers of 32 bits.
pub(super) const MAX_PAGES: usize = 1 << 31;
/// The tag of a free place.
const FREE: u32 = 0;

/// The sets of one shard.
#[derive(Debug)]
pub(super) struct Sets {
    /// For each place, the number of its page plus one, or [`FREE`].
    tags: Vec<u32>,
    /// The heat of the page in each place.
    heats: Heats,
    /// The heat of each page that is not there.
    absent: Heats,
    data: Vec<u8>,
}

impl Sets {
    /// Memory for `sets` sets of a shard with `pages` pages.
    pub(super) fn bytes(pages: usize, sets: usize) -> u64 {
        let places = sets * WAYS;
        places as u64 * (PAGE_BYTES + size_of::<u32>()) as u64
            + Heats::bytes(places, WAYS)
            + Heats::bytes(pages, GROUP)
    }

    /// Sets that `budget_bytes` are enough for.
    pub(super) fn within(pages: usize, budget_bytes: u64) -> usize {
        let set = Self::bytes(0, 1);
        let sets = budget_bytes.saturating_sub(Self::bytes(pages, 0)) / set;
        usize::try_from(sets).unwrap_or(usize::MAX)
    }

    /// `sets` sets, at least one, for pages below `pages`, at most [`MAX_PAGES`].
    pub(super) fn new(pages: usize, sets: usize) -> Self {
        let places = sets * WAYS;
        Self {
            tags: vec![FREE; places],
            heats: Heats::new(places, WAYS),
            absent: Heats::new(pages, GROUP),
            data: vec![0; places * PAGE_BYTES],
        }
    }

    /// The content of a page, if it is there. The page has come up in `round`.
    pub(super) fn look_up(&mut self, page: usize, round: u32) -> Option<&mut [u8; PAGE_BYTES]> {
        let place = self.place(page);
        let heat = match place {
            Some(place) => self.heats.one(place, round),
            None => self.absent.one(page, round),
        };
        *heat = heat.saturating_add(STEP);
        place.map(|place| page_mut(&mut self.data, place))
    }

    /// A place for a page that is not there and has just been looked up, to be written whole;
    /// `None` if it is not worth one.
    pub(super) fn insert(&mut self, page: usize, round: u32) -> Option<&mut [u8; PAGE_BYTES]> {
        let set = self.set(page);
        let first = set * WAYS;
        let tags = &mut self.tags[first..first + WAYS];
        let heats = self.heats.group(set, round);
        let heat = *self.absent.one(page, round);
        let way = match tags.iter().position(|tag| *tag == FREE) {
            Some(free) => free,
            None => {
                let coldest = (0..WAYS).min_by_key(|way| heats[*way])?;
                if heats[coldest] > 0 && heat <= heats[coldest].saturating_add(STEP) {
                    return None;
                }
                *self.absent.one(tags[coldest] as usize - 1, round) = heats[coldest];
                coldest
            }
        };
        tags[way] = tag(page);
        heats[way] = heat;
        Some(page_mut(&mut self.data, first + way))
    }

    /// A free place for a page that comes up for the first time, to be written whole. That it came
    /// up does not count: all pages do once.
    pub(super) fn insert_first(&mut self, page: usize) -> Option<&mut [u8; PAGE_BYTES]> {
        let first = self.set(page) * WAYS;
        let tags = &mut self.tags[first..first + WAYS];
        let way = tags.iter().position(|tag| *tag == FREE)?;
        tags[way] = tag(page);
        Some(page_mut(&mut self.data, first + way))
    }

    /// Frees the page's place, if it has one.
    pub(super) fn forget(&mut self, page: usize, round: u32) {
        if let Some(place) = self.place(page) {
            *self.absent.one(page, round) = *self.heats.one(place, round);
            self.tags[place] = FREE;
        }
    }

    /// Neighbours go to different sets: a busy region uses all of them alike.
    fn set(&self, page: usize) -> usize {
        page % (self.tags.len() / WAYS)
    }

    fn place(&self, page: usize) -> Option<usize> {
        let first = self.set(page) * WAYS;
        let tags = &self.tags[first..first + WAYS];
        let way = tags.iter().position(|other| *other == tag(page))?;
        Some(first + way)
    }
}

/// The tag of a page's place.
fn tag(page: usize) -> u32 {
    u32::try_from(page + 1).expect("a shard has at most MAX_PAGES pages")
}
