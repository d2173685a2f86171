//! Rounds: how they end, and what is given back when one fails.

use std::time::Duration;

use pagelift_engine::memory::PageBitmap;
use pagelift_engine::migration::{MigrationError, SourceStep, Work};
use pagelift_engine::units::{PageCount, PageRange};

use crate::pair::{PAGES, Pair, pages};

/// The last pages may arrive before the message that says that they are the last.
#[test]
fn the_last_round_may_overtake_its_announcement() {
    let mut pair = Pair::new(1);
    pair.begin();
    pair.carry_round();
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Harvest));
    let dirty = pages(PageRange::new(3, 2));
    pair.source.harvested(pair.now, &dirty).unwrap();
    assert!(matches!(pair.source.poll(pair.now), SourceStep::StopGuest));
    pair.source.stopped(pair.now, pair.now, &dirty);
    pair.carry_round();
    pair.tell_target();
    assert!(pair.target.has_all_pages());
}

/// Channels must close a round that is cut short, or the next one's pages come out of order.
#[test]
fn a_policy_may_stop_the_guest_within_a_round() {
    let mut pair = Pair::new(1);
    pair.begin();
    assert_eq!(pair.carry(), Work::Pages);
    pair.pass(Duration::from_millis(60));
    pair.source.handle_time(pair.now).unwrap();
    assert_eq!(pair.carry(), Work::RoundEnd(1));
    assert!(matches!(pair.source.poll(pair.now), SourceStep::StopGuest));
    pair.source
        .stopped(pair.now, pair.now, &pages(PageRange::new(0, 1)));
    let mut sent = PageBitmap::new(PageCount(PAGES));
    while matches!(pair.carry(), Work::Pages) {
        assert_eq!(pair.batch.round, 2);
        pair.batch.runs.iter().for_each(|run| sent.insert(*run));
        pair.tell_source();
    }
    // The first frame took 16 pages; the rest, and what was written since, goes last.
    let mut expected = pages(PageRange::new(16, 84));
    expected.insert(PageRange::new(0, 1));
    assert_eq!(sent, expected);
}

/// The control reader may end the migration while the coordinator stops the guest.
#[test]
fn what_was_harvested_when_it_failed_is_given_back() {
    let mut pair = Pair::new(1);
    pair.begin();
    pair.carry_round();
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Harvest));
    let nothing = pages(PageRange::new(0, 0));
    pair.source.harvested(pair.now, &nothing).unwrap();
    assert!(matches!(pair.source.poll(pair.now), SourceStep::StopGuest));
    pair.source.fail(MigrationError::Cancelled);
    pair.source
        .stopped(pair.now, pair.now, &pages(PageRange::new(5, 3)));
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Failed));
    let mut back = PageBitmap::new(PageCount(PAGES));
    pair.source.undelivered(&mut back);
    assert_eq!(back, pages(PageRange::new(5, 3)));
}

/// Rounds of nothing would follow each other as fast as the processor allows.
#[test]
fn a_guest_that_writes_nothing_costs_no_rounds() {
    let mut pair = Pair::new(100);
    pair.begin();
    pair.carry_round();
    let nothing = pages(PageRange::new(0, 0));
    for _ in 0..5 {
        assert!(matches!(pair.source.poll(pair.now), SourceStep::Harvest));
        pair.source.harvested(pair.now, &nothing).unwrap();
        assert!(matches!(pair.source.poll(pair.now), SourceStep::Wait(_)));
        assert_eq!(pair.carry(), Work::Wait);
        pair.pass(Duration::from_millis(10));
    }
    assert_eq!(pair.source.status(pair.now).round, 1);
}
