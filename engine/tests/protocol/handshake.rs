//! The handshake, and pings from then on.

use std::time::Duration;

use pagelift_engine::converge::{Predictive, PredictiveConfig};
use pagelift_engine::migration::{MigrationError, Source, SourceStep};
use pagelift_engine::units::PageRange;
use pagelift_engine::wire::{Encoding, Encodings, Message};

use crate::machines::source_config;
use crate::pair::{PAGES, Pair, pages};
use crate::support::layout;

/// A target that is built without zstd, and sources that ask for it or do not.
#[test]
fn a_codec_that_the_target_cannot_read_is_refused_if_it_must_be_used() {
    let reads = Encodings::readable().without(Encoding::Zstd);
    let greet = |needs| {
        let mut pair = Pair::with(1, needs, reads);
        let hello = pair.source.poll_message().unwrap();
        let greeted = pair.target.handle_message(pair.now, hello);
        (pair, greeted)
    };
    let zstd = Encodings::none().with(Encoding::Zstd).with(Encoding::More);
    let (mut pair, greeted) = greet(zstd);
    assert!(matches!(greeted, Err(MigrationError::Refused { .. })));
    let refuse = pair.target.poll_message().unwrap();
    let refused = pair.source.handle_message(pair.now, refuse).unwrap_err();
    let words = refused.to_string();
    assert!(words.contains("packs pages with zstd"), "{words}");
    assert!(words.contains("--compress auto"), "the way out: {words}");
    pair.source.fail(refused);
    assert!(!pair.source.is_accepted(), "no data connection is opened");

    // Something that this build has never heard of.
    let (_, greeted) = greet(Encodings(1 << 20));
    let words = greeted.unwrap_err().to_string();
    assert!(words.contains("(number 20)"), "{words}");

    let lz4 = Encodings::none().with(Encoding::Lz4).with(Encoding::More);
    let (mut pair, greeted) = greet(lz4);
    assert!(greeted.is_ok());
    assert_eq!(pair.source.target_reads(), Encodings::BASIC, "not yet");
    pair.begin();
    assert!(pair.source.is_accepted());
    assert_eq!(pair.source.target_reads(), reads);
}

#[test]
fn pings_that_waited_behind_pages_do_not_keep_a_guest_that_may_be_stopped() {
    let mut pair = Pair::new(1);
    let policy = Box::new(Predictive::new(PredictiveConfig::default()));
    pair.source = Source::new(source_config(layout(&[PAGES]), policy), pair.now);
    pair.begin();
    // Three messages there and back would take longer than a downtime may.
    for _ in 0..10 {
        pair.tell_target();
        pair.pass(Duration::from_millis(30));
        pair.tell_source();
    }
    pair.carry_round();
    let (nothing, rests) = (pages(PageRange::new(0, 0)), pair.now);
    loop {
        match pair.source.poll(pair.now) {
            SourceStep::Harvest => pair.source.harvested(pair.now, &nothing).unwrap(),
            SourceStep::Wait(_) => {
                pair.tell_target();
                pair.pass(Duration::from_millis(1));
                pair.tell_source();
            }
            step => {
                assert!(matches!(step, SourceStep::StopGuest), "{step:?}");
                break;
            }
        }
        let rested = pair.now.since(rests);
        assert!(
            rested < Duration::from_millis(200),
            "it rests for {rested:?}"
        );
    }
    assert!(pair.now.since(rests) > Duration::ZERO, "it had to rest");
}

#[test]
fn a_source_with_pages_left_asks_once_between_rounds_what_a_message_costs() {
    let mut pair = Pair::new(100);
    pair.begin();
    // Until the first few pings are answered.
    for _ in 0..10 {
        pair.tell_target();
        pair.pass(Duration::from_millis(30));
        pair.tell_source();
    }
    for _ in 0..3 {
        pair.carry_round();
        assert!(matches!(pair.source.poll(pair.now), SourceStep::Harvest));
        let written = pages(PageRange::new(0, 10));
        pair.source.harvested(pair.now, &written).unwrap();
        let said: Vec<_> = std::iter::from_fn(|| pair.source.poll_message()).collect();
        let pings = said.iter().filter(|said| matches!(said, Message::Ping));
        assert_eq!(pings.count(), 1, "{said:?}");
        for message in said {
            pair.target.handle_message(pair.now, message).unwrap();
        }
        pair.tell_source();
    }
}
