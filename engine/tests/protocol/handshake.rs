//! The handshake, and pings from then on.

use std::time::Duration;

use pagelift_engine::converge::{Predictive, PredictiveConfig};
use pagelift_engine::memory::{KnownFile, Mark, Reach};
use pagelift_engine::migration::{
    GuestLocation, MigrationError, Source, SourceStep, Target, TargetStep,
};
use pagelift_engine::units::PageRange;
use pagelift_engine::wire::{Encoding, Encodings, Message};

use crate::machines::{SESSION, source_config, target_config};
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

/// A target of which it cannot be told whether its files are the source's.
fn marked() -> Pair {
    let file = |inode: u64| {
        let name = format!("ram{inode}");
        KnownFile::new(name, inode.into(), (1, inode), Reach::Wider)
    };
    let mut pair = Pair::new(1);
    let mut config = source_config(
        layout(&[PAGES]),
        Box::new(Predictive::new(PredictiveConfig::default())),
    );
    config.files = vec![file(1).identity(SESSION.0)];
    pair.source = Source::new(config, pair.now);
    let mut config = target_config(layout(&[PAGES]));
    config.files = vec![file(2), file(3)];
    pair.target = Target::new(config, pair.now);
    pair
}

/// The marks that the target is to place are placed, and the source knows of them.
fn ask(pair: &mut Pair) -> Vec<Mark> {
    pair.tell_target();
    let TargetStep::PlaceMarks(files) = pair.target.poll(pair.now) else {
        panic!("it cannot be told, so files are to be marked");
    };
    assert_eq!(files, [0, 1]);
    assert!(matches!(pair.target.poll(pair.now), TargetStep::Wait(_)));
    let marks = [0, 4096].map(|offset| Mark { offset, word: 77 });
    pair.target.marks_placed(pair.now, marks.to_vec());
    pair.tell_source();
    match pair.source.poll(pair.now) {
        SourceStep::LookForMarks(asked) => asked,
        step => panic!("the source is to look for them: {step:?}"),
    }
}

#[test]
fn marks_that_do_not_show_are_taken_back_before_the_memory_is_cleared() {
    let mut pair = marked();
    assert_eq!(ask(&mut pair).len(), 2);
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Wait(_)));
    pair.source.marks_looked_for(pair.now, None);
    pair.tell_target();
    let step = pair.target.poll(pair.now);
    assert!(matches!(step, TargetStep::TakeMarksBack), "{step:?}");
    assert!(matches!(pair.target.poll(pair.now), TargetStep::Wait(_)));
    pair.target.marks_taken_back();
    pair.begin();
}

#[test]
fn a_mark_that_shows_is_the_end_and_nothing_was_cleared() {
    let mut pair = marked();
    ask(&mut pair);
    pair.source.marks_looked_for(pair.now, Some(1));
    let answer = std::iter::from_fn(|| pair.source.poll_message()).last();
    let refused = pair.target.handle_message(pair.now, answer.unwrap());
    let refused = refused.unwrap_err();
    assert!(matches!(refused, MigrationError::Refused { .. }));
    let words = refused.to_string();
    assert!(words.contains("file of ram3 is the very file"), "{words}");
    let refuse = std::iter::from_fn(|| pair.target.poll_message()).last();
    let told = pair.source.handle_message(pair.now, refuse.unwrap());
    assert!(
        told.unwrap_err()
            .to_string()
            .contains("RAM file of its own")
    );
    assert_eq!(pair.source.guest_location(), GuestLocation::Source);
}

#[test]
fn answers_that_make_no_sense_end_the_migration() {
    let mut pair = marked();
    ask(&mut pair);
    let nonsense = Message::MarkShows(Some(2));
    let error = pair.target.handle_message(pair.now, nonsense).unwrap_err();
    assert!(
        matches!(error, MigrationError::PeerMisbehaved(_)),
        "{error}"
    );
    // Nobody asked.
    let mut pair = Pair::new(1);
    pair.tell_target();
    let answer = Message::MarkShows(None);
    assert!(pair.target.handle_message(pair.now, answer).is_err());
    // Too late.
    let mut pair = Pair::new(1);
    pair.begin();
    let marks = Message::Marks(vec![Mark { offset: 0, word: 1 }]);
    assert!(pair.source.handle_message(pair.now, marks).is_err());
}
