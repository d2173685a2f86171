//! Against sets of integers.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

proptest! {
    /// Against a set of integers: inserts, removals, counting and runs agree.
    #[test]
    fn behaves_like_a_set_of_integers(
        pages in prop_oneof![1u64..300, 30_000u64..40_000],
        steps in prop::collection::vec((any::<bool>(), 0u64..320, 0u64..150, 0u64..3), 0..40),
    ) {
        let mut bitmap = PageBitmap::new(PageCount(pages));
        let mut oracle: BTreeSet<u64> = BTreeSet::new();
        for (insert, first, count, far) in steps {
            // Also in blocks, and groups of blocks, that are far away from each other.
            let range = PageRange::new(first + far * 16_600, count);
            let within = oracle.range(range.indices()).count();
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
    /// Two sets, against the same of integers.
    #[test]
    fn what_is_done_with_two_sets_is_what_is_done_with_two_of_integers(
        a in prop::collection::btree_set(0u64..40_000, 0..60),
        b in prop::collection::btree_set(0u64..40_000, 0..60),
        shared in prop::collection::btree_set(0u64..40_000, 0..20),
    ) {
        let with_shared = |own: &BTreeSet<u64>| own.union(&shared).copied().collect();
        let (a, b): (BTreeSet<u64>, BTreeSet<u64>) = (with_shared(&a), with_shared(&b));
        let (of_a, of_b) = (set(&a), set(&b));
        prop_assert_eq!(of_a.common(&of_b).0, a.intersection(&b).count() as u64);
        prop_assert_eq!(of_a == of_b, a == b);
        let mut both = of_a.clone();
        prop_assert!(both == of_a);
        both.union(&of_b);
        prop_assert!(both == set(&a.union(&b).copied().collect()));
        let mut only = set(&BTreeSet::new());
        only.union_without(&of_a, &of_b);
        prop_assert!(only == set(&a.difference(&b).copied().collect()));
        both.clear();
        prop_assert!(both.is_empty() && both == set(&BTreeSet::new()));
    }
}

/// A set of 40,000 pages, with these in it.
fn set(members: &BTreeSet<u64>) -> PageBitmap {
    let mut set = PageBitmap::new(PageCount(40_000));
    for &page in members {
        set.insert(PageRange::new(page, 1));
    }
    set
}

#[test]
fn a_block_that_is_emptied_is_no_longer_looked_at() {
    let mut set = PageBitmap::new(PageCount(BLOCK_PAGES * 100));
    set.insert(PageRange::new(BLOCK_PAGES * 70, 3));
    assert_eq!((set.occupied(0), set.occupied(1)), (0, 1 << 6));
    set.remove(PageRange::new(BLOCK_PAGES * 70, 2));
    assert_eq!(set.occupied(1), 1 << 6);
    set.set_block(70, [0; BLOCK_WORDS]);
    assert!(set.is_empty());
    set.set_block(99, [0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        set.next_run(0, 9),
        Some(PageRange::new(BLOCK_PAGES * 99 + 64, 1))
    );
}
