//! Acknowledgements: that they come, and what they may say.

use std::time::Duration;

use pagelift_engine::migration::{DATA_SILENCE, MigrationError, TargetStages, Work};
use pagelift_engine::units::ByteCount;
use pagelift_engine::wire::{Ack, Message, Waited};

use crate::pair::Pair;

#[test]
fn pages_that_go_nowhere_are_noticed_while_the_control_connection_lives() {
    let mut pair = Pair::new(9);
    pair.begin();
    pair.source.next_work(pair.now, 0, &mut pair.batch);
    let mut ended = None;
    for _ in 0..DATA_SILENCE.as_secs() + 1 {
        pair.pass(Duration::from_secs(1));
        pair.source.handle_message(pair.now, Message::Pong).unwrap();
        ended = pair.source.handle_time(pair.now).err();
    }
    assert!(matches!(ended, Some(MigrationError::Link { .. })));
}

/// A target that only repeats itself makes no progress.
#[test]
fn acknowledgements_of_the_same_frames_do_not_keep_a_migration_alive() {
    let mut pair = Pair::new(9);
    pair.begin();
    pair.carry();
    pair.source.next_work(pair.now, 0, &mut pair.batch);
    let again = Message::Ack(Ack {
        channel: 0,
        frames: 1,
        bytes: 100,
    });
    let mut ended = None;
    for _ in 0..DATA_SILENCE.as_secs() + 1 {
        let (now, again) = (pair.now, again.clone());
        pair.source.handle_message(now, again).unwrap();
        pair.pass(Duration::from_secs(1));
        ended = pair.source.handle_time(pair.now).err();
    }
    assert!(matches!(ended, Some(MigrationError::Link { .. })));
}

/// A link that looks quicker than it is would have the guest stopped too early.
#[test]
fn a_target_cannot_make_up_the_rate_of_the_link() {
    let mut pair = Pair::new(9);
    pair.begin();
    pair.carry();
    let inflated = Message::Ack(Ack {
        channel: 0,
        frames: 1,
        bytes: 100 << 20,
    });
    let error = pair.source.handle_message(pair.now, inflated);
    assert!(matches!(error, Err(MigrationError::PeerMisbehaved(_))));
    assert!(pair.source.placed_bytes() < ByteCount(200));
}

#[test]
fn the_target_says_with_its_acknowledgements_how_long_a_channel_waited() {
    let mut pair = Pair::new(1);
    pair.begin();
    assert_eq!(pair.source.target_waited(0), None);
    assert!(matches!(pair.carry(), Work::Pages));
    pair.pass(Duration::from_millis(100));
    let mut stages = TargetStages::default();
    stages.receive.waiting = Duration::from_millis(30);
    pair.target.worked(0, stages);
    pair.carry_round();
    let waited = pair.source.target_waited(0).expect("it has placed pages");
    assert_eq!((waited.waited_us, waited.elapsed_us), (30_000, 100_000));
    assert!(pair.source.placed_bytes() >= ByteCount(200));

    let of_nobody = Message::Waited(Waited {
        channel: 1,
        ..waited
    });
    let error = pair.source.handle_message(pair.now, of_nobody);
    assert!(matches!(error, Err(MigrationError::PeerMisbehaved(_))));
}
