//! Index over the fingerprints of the target's base pages, by page and by fingerprint.
//!
//! Filled while it is read, by any threads: all of it is atomic, and since it only holds hints,
//! half of an update is as good as none. Allocated once, for the pages that both sides agreed
//! on: 8 bytes a page and 4 a slot, of which there are 1.25 to 2.5 for each page.
//!
//! Cost: a page at the place where it is looked for first (the usual case: a guest comes back,
//! or a run of an image goes on) is one load; any other place, or none, up to
//! [`PROBES`] loads that are seldom in a cache.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::units::ByteCount;

/// Slots that are looked at for a fingerprint. At the highest load, four slots in five, a chain
/// is longer for one page in a thousand or so; that page is not found.
const PROBES: usize = 16;

/// Most pages, so that their numbers fit the slots: 4 TiB of them.
const MOST_PAGES: u64 = 1 << 30;

/// The fingerprints of a target's base pages, as far as they have come.
#[derive(Debug)]
pub struct FingerprintIndex {
    /// By page; 0 where nothing is known.
    fingerprints: Box<[AtomicU64]>,
    /// By fingerprint: the number of a page plus one, or 0.
    slots: Box<[AtomicU32]>,
    told: AtomicU64,
}

impl FingerprintIndex {
    /// An empty index of `pages` pages; of more than fit, only the first.
    pub fn new(pages: u64) -> Self {
        let pages = pages.min(MOST_PAGES);
        let zeros = |count: u64| 0..usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            fingerprints: zeros(pages).map(|_| AtomicU64::new(0)).collect(),
            slots: zeros(slots(pages)).map(|_| AtomicU32::new(0)).collect(),
            told: AtomicU64::new(0),
        }
    }

    /// Memory that an index of `pages` pages takes.
    pub fn footprint(pages: u64) -> ByteCount {
        let pages = pages.min(MOST_PAGES);
        ByteCount(pages * 8 + slots(pages) * 4)
    }

    /// Pages it has room for.
    pub fn pages(&self) -> u64 {
        self.fingerprints.len() as u64
    }

    /// Pages whose fingerprints have come.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Notes the fingerprints of page `first` and those after it; 0 says nothing. Whether all
    /// of these pages are within the index; if not, nothing is noted.
    #[must_use]
    pub fn insert(&self, first: u64, fingerprints: &[u64]) -> bool {
        let Some(own) = usize::try_from(first)
            .ok()
            .and_then(|first| self.fingerprints.get(first..))
            .and_then(|own| own.get(..fingerprints.len()))
        else {
            return false;
        };
        for ((page, slot), fingerprint) in (first..).zip(own).zip(fingerprints) {
            if *fingerprint != 0 {
                slot.store(*fingerprint, Ordering::Relaxed);
                self.index(page, *fingerprint);
                self.told.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }

    /// A page that may have the content of this fingerprint: page `guess` if it does.
    pub fn find(&self, guess: u64, fingerprint: u64) -> Option<u64> {
        if self.fingerprint_of(guess) == Some(fingerprint) {
            return Some(guess);
        }
        for slot in self.chain(fingerprint) {
            let page = u64::from(slot.load(Ordering::Relaxed).checked_sub(1)?);
            if self.fingerprint_of(page) == Some(fingerprint) {
                return Some(page);
            }
        }
        None
    }

    fn fingerprint_of(&self, page: u64) -> Option<u64> {
        let own = self.fingerprints.get(usize::try_from(page).ok()?)?;
        Some(own.load(Ordering::Relaxed))
    }

    fn index(&self, page: u64, fingerprint: u64) {
        // Within the most pages there can be.
        let number = u32::try_from(page + 1).unwrap_or(u32::MAX);
        for slot in self.chain(fingerprint) {
            match slot.load(Ordering::Relaxed).checked_sub(1) {
                None => return slot.store(number, Ordering::Relaxed),
                // One page of this content is enough.
                Some(other) if self.fingerprint_of(other.into()) == Some(fingerprint) => return,
                Some(_) => {}
            }
        }
    }

    /// The slots for a fingerprint, in the order in which they are used.
    fn chain(&self, fingerprint: u64) -> impl Iterator<Item = &AtomicU32> {
        let mask = self.slots.len().wrapping_sub(1);
        let probes = PROBES.min(self.slots.len());
        // The number of slots is a power of two.
        (0..probes).map(move |step| &self.slots[(fingerprint as usize).wrapping_add(step) & mask])
    }
}

fn slots(pages: u64) -> u64 {
    match pages {
        0 => 0,
        pages => (pages + pages / 4).next_power_of_two(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_page_is_found_at_its_guess_and_elsewhere() {
        let index = FingerprintIndex::new(10);
        assert!(index.insert(3, &[30, 0, 50]));
        assert_eq!(index.told(), 2);
        assert_eq!(index.find(3, 30), Some(3));
        assert_eq!(index.find(99, 50), Some(5), "a guess that cannot be");
        assert_eq!(index.find(5, 30), Some(3), "a guess of other content");
        assert_eq!(index.find(4, 40), None);
        // Of two pages of one content, the guess is preferred.
        assert!(index.insert(8, &[30]));
        assert_eq!(index.find(8, 30), Some(8));
        assert_eq!(index.find(0, 30), Some(3));
    }

    #[test]
    fn what_lies_outside_is_refused_and_an_empty_one_finds_nothing() {
        let index = FingerprintIndex::new(4);
        assert!(!index.insert(3, &[1, 2]));
        assert!(!index.insert(u64::MAX, &[1]));
        assert_eq!(index.told(), 0);
        let empty = FingerprintIndex::new(0);
        assert!(!empty.insert(0, &[1]));
        assert_eq!(empty.find(0, 1), None);
        assert_eq!(FingerprintIndex::footprint(0), ByteCount(0));
        assert!(FingerprintIndex::footprint(1 << 18).0 <= 24 << 18);
    }

    #[test]
    fn nearly_every_page_of_a_full_catalogue_is_found() {
        // As loaded as it can be: 1.25 slots a page.
        let pages = (1 << 16) * 4 / 5;
        let index = FingerprintIndex::new(pages);
        let mix = |page: u64| (page + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for page in 0..pages {
            assert!(index.insert(page, &[mix(page)]));
        }
        let found = (0..pages).filter(|page| index.find(u64::MAX, mix(*page)) == Some(*page));
        assert!(found.count() as u64 > pages * 98 / 100);
    }

    proptest! {
        #[test]
        fn what_is_found_has_the_fingerprint(
            told in prop::collection::vec((0u64..40, 0u64..30), 0..60),
            asked in prop::collection::vec((0u64..50, 1u64..30), 1..60),
        ) {
            let (index, mut naive) = (FingerprintIndex::new(40), HashMap::new());
            for (page, fingerprint) in told {
                prop_assert!(index.insert(page, &[fingerprint]));
                if fingerprint != 0 {
                    naive.insert(page, fingerprint);
                }
            }
            for (guess, fingerprint) in asked {
                match index.find(guess, fingerprint) {
                    Some(page) => prop_assert_eq!(naive.get(&page), Some(&fingerprint)),
                    None => prop_assert_ne!(naive.get(&guess), Some(&fingerprint)),
                }
            }
        }
    }
}
