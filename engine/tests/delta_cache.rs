//! The delta cache: contents are always those last given, memory stays within the budget, and
//! more pages are found than with QEMU's policy, pattern by pattern.
//!
//! QEMU's cache is modelled from its description: direct mapped, a page takes the place of
//! another only if that one has not come up in this round or the one before.

mod delta_cache_patterns;

use std::collections::HashMap;

use delta_cache_patterns::{PATTERNS, Random};
use pagelift_engine::codec::cache::{CacheError, DeltaCache, Outcome};
use pagelift_engine::codec::xbzrle::decode;
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex};
use proptest::prelude::*;

type Page = [u8; PAGE_BYTES];

fn page(value: u64) -> Page {
    let mut page = [0; PAGE_BYTES];
    page[8..16].copy_from_slice(&value.to_le_bytes());
    page
}

/// What a target makes of what the cache says, and whether it was a hit.
fn send(cache: &DeltaCache, target: &mut HashMap<u64, Page>, at: u64, new: &Page) -> bool {
    let mut out = [0; PAGE_BYTES];
    let held = target.entry(at).or_insert([0xee; PAGE_BYTES]);
    let hit = match cache.encode(PageIndex(at), new, &mut out) {
        Outcome::Unchanged => true,
        Outcome::Delta(length) => {
            decode(&out[..length], held).expect("an encoded delta");
            true
        }
        Outcome::Whole => {
            *held = *new;
            false
        }
    };
    assert_eq!(held, new, "page {at}");
    hit
}

#[test]
fn a_budget_that_covers_the_guest_keeps_every_page() {
    let pages = 5000;
    let cache = DeltaCache::new(PageCount(pages), ByteCount(24 << 20)).unwrap();
    assert!(cache.footprint().0 <= 24 << 20);
    let mut target = HashMap::new();
    for round in 0..3 {
        cache.begin_round();
        for at in 0..pages {
            let hit = send(&cache, &mut target, at, &page(round * pages + at));
            assert_eq!(hit, round > 0);
        }
    }
    let stats = cache.stats();
    assert_eq!((stats.lookups, stats.hits), (3 * pages, 2 * pages));
    assert_eq!((stats.stored, stats.refused), (pages, 0));
    assert_eq!(stats.saved_bytes + stats.delta_bytes, 2 * pages * 4096);
}

#[test]
fn pages_of_the_first_round_take_what_room_there_is_and_give_way_to_those_that_come_again() {
    let pages = 4096;
    let cache = DeltaCache::new(PageCount(pages), ByteCount(4 << 20)).unwrap();
    let mut target = HashMap::new();
    cache.begin_round();
    for at in 0..pages {
        cache.put_first(PageIndex(at), &page(at));
        target.insert(at, page(at));
    }
    let stored = cache.stats().stored;
    assert!((900..1024).contains(&stored), "{stored}");
    // Pages that come in every round from now on: a quarter of them is there by chance, and from
    // the second time on almost all are.
    let mut hits = [0; 3];
    for hit in &mut hits {
        cache.begin_round();
        for at in (0..pages).step_by(5) {
            *hit += u64::from(send(&cache, &mut target, at, &page(at + 1)));
        }
    }
    let each = pages.div_ceil(5);
    assert!(hits[0] > 0 && hits[0] < each / 2, "{hits:?}");
    assert!(
        hits[1] > each * 9 / 10 && hits[2] > each * 9 / 10,
        "{hits:?}"
    );
}

#[test]
fn every_kind_of_outcome_is_counted() {
    let cache = DeltaCache::new(PageCount(64), ByteCount(1 << 20)).unwrap();
    let mut out = [0; PAGE_BYTES];
    let mut encode = |new: &Page| cache.encode(PageIndex(3), new, &mut out);
    assert_eq!(encode(&page(1)), Outcome::Whole);
    assert_eq!(encode(&page(1)), Outcome::Unchanged);
    assert_eq!(encode(&page(2)), Outcome::Delta(3));
    assert_eq!(encode(&[7; PAGE_BYTES]), Outcome::Whole);
    cache.put(PageIndex(3), &[0; PAGE_BYTES]);
    assert_eq!(encode(&[0; PAGE_BYTES]), Outcome::Unchanged);
    cache.forget(PageIndex(3));
    assert_eq!(encode(&[0; PAGE_BYTES]), Outcome::Whole);
    let stats = cache.stats();
    assert_eq!((stats.lookups, stats.hits, stats.unchanged), (6, 4, 2));
    assert_eq!((stats.overflows, stats.stored), (1, 2));
    assert_eq!((stats.delta_bytes, stats.saved_bytes), (3, 3 * 4096 - 3));
    assert_eq!(stats.hit_rate(), Some(4.0 / 6.0));
}

#[test]
fn memory_stays_within_any_budget_that_is_taken() {
    for pages in [1, 15, 16, 17, 1000, 100_000, 1 << 26] {
        for budget in (10..30).flat_map(|bits| [1u64 << bits, 3 << bits, (1 << bits) + 1]) {
            match DeltaCache::new(PageCount(pages), ByteCount(budget)) {
                Ok(cache) => {
                    assert!(cache.footprint().0 <= budget, "{pages} {budget}");
                    // Every page has a place of its own to be looked for.
                    cache.put(PageIndex(pages - 1), &page(1));
                }
                Err(CacheError::BudgetTooSmall { least, .. }) => {
                    assert!(least.0 > budget, "{pages} {budget}");
                    assert!(DeltaCache::new(PageCount(pages), least).is_ok());
                }
            }
        }
    }
}

#[test]
fn threads_that_work_on_different_pages_do_not_disturb_each_other() {
    let cache = DeltaCache::new(PageCount(4096), ByteCount(8 << 20)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                let mut target = HashMap::new();
                let mut random = Random::new(thread);
                for step in 0..5000 {
                    let at = random.below(1024) * 4 + thread;
                    send(cache, &mut target, at, &page(step));
                }
            });
        }
    });
    let stats = cache.stats();
    assert_eq!(stats.lookups, 4 * 5000);
    assert_eq!(stats.lookups - stats.hits, stats.stored + stats.refused);
    assert!(stats.hits > 0);
}

/// QEMU's policy: whether a page was there, by slot (page, round of its last use).
struct QemuModel {
    slots: Vec<Option<(u64, u32)>>,
}

impl QemuModel {
    fn access(&mut self, page: u64, round: u32) -> bool {
        let count = self.slots.len() as u64;
        let slot = &mut self.slots[(page % count) as usize];
        match slot {
            Some((other, age)) if *other == page => {
                *age = round;
                true
            }
            Some((_, age)) if *age + 2 > round => false,
            _ => {
                *slot = Some((page, round));
                false
            }
        }
    }
}

/// Pages each cache has room for.
const CACHE_PAGES: u64 = 1024;
/// Pages of the guest.
const GUEST_PAGES: u64 = 16 << 10;
const ROUNDS: u32 = 40;

#[test]
fn more_pages_are_found_than_with_qemus_policy() {
    let mut worse = Vec::new();
    for (name, pattern, least_gain) in PATTERNS {
        let budget = CACHE_PAGES * PAGE_BYTES as u64;
        let cache = DeltaCache::new(PageCount(GUEST_PAGES), ByteCount(budget)).unwrap();
        let mut qemu = QemuModel {
            slots: vec![None; CACHE_PAGES as usize],
        };
        let mut target = HashMap::new();
        let mut random = Random::new(1);
        let (mut accesses, mut ours, mut theirs) = (0u64, 0u64, 0u64);
        for round in 0..ROUNDS {
            cache.begin_round();
            for at in pattern(round, &mut random) {
                accesses += 1;
                let new = page(u64::from(round) << 32 | at);
                ours += u64::from(send(&cache, &mut target, at, &new));
                theirs += u64::from(qemu.access(at, round));
            }
        }
        let rate = |hits: u64| 100.0 * hits as f64 / accesses as f64;
        let (ours, theirs) = (rate(ours), rate(theirs));
        println!("{name}: {ours:.1} % found, with QEMU's policy {theirs:.1} %");
        if ours < theirs + least_gain {
            worse.push(name);
        }
    }
    assert_eq!(worse, [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..Default::default()
    })]

    /// Any order of calls: a delta always fits what the target has.
    #[test]
    fn the_cache_never_has_anything_but_what_was_last_given(
        budget_pages in 20u64..600,
        steps in prop::collection::vec((0u8..8, 0u64..400, 0u64..4), 1..600),
    ) {
        let cache = DeltaCache::new(PageCount(400), ByteCount(budget_pages * 4096)).unwrap();
        let mut target = HashMap::new();
        for (step, at, value) in steps {
            match step {
                0 => cache.begin_round(),
                1 => {
                    cache.put(PageIndex(at), &page(value));
                    target.insert(at, page(value));
                }
                2 => {
                    // The content was lost on the way.
                    cache.forget(PageIndex(at));
                    target.insert(at, [0xdd; PAGE_BYTES]);
                }
                _ => _ = send(&cache, &mut target, at, &page(value)),
            }
        }
    }
}
