//! The two-phase commit: what a prepared target waits for, and where the guest is when one side
//! is gone.

use std::time::Duration;

use pagelift_engine::migration::{
    DECISION, DowntimeLimit, GuestLocation, IN_DOUBT, MigrationError, Ownership, PEER_SILENCE,
    SourceStep, TargetStep,
};
use pagelift_engine::units::{ByteCount, Instant};
use pagelift_engine::wire::{AbortCode, Message};

use crate::machines::SESSION;
use crate::pair::Pair;

#[test]
fn a_ready_target_waits_for_the_word_of_the_source() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.target.fail(MigrationError::Cancelled);
    pair.pass(PEER_SILENCE);
    pair.target.handle_time(pair.now).unwrap();
    pair.pass(PEER_SILENCE);
    pair.target.handle_time(pair.now).unwrap();
    pair.tell_source();
    pair.hand_over();
    pair.tell_target();
    assert!(matches!(pair.target.poll(pair.now), TargetStep::Run(_)));
}

#[test]
fn a_ready_target_that_is_left_alone_does_not_claim_to_know() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.pass(Duration::from_secs(1));
    pair.target.handle_time(pair.now).unwrap();
    pair.pass(PEER_SILENCE);
    pair.target.handle_time(pair.now).unwrap();
    pair.pass(IN_DOUBT);
    pair.target_gives_up_in_doubt();
}

/// With a connection it keeps its promise.
#[test]
fn a_ready_target_can_be_cancelled_only_while_its_source_is_lost() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.target.cancel();
    assert!(!pair.target.is_over());
    let lost = MigrationError::PeerSilent { seconds: 5 };
    pair.target.control_failed(pair.now, lost);
    pair.target.cancel();
    pair.target_gives_up_in_doubt();
}

/// Nobody but a source that has lost its connection has reason to ask for another one.
#[test]
fn a_connection_that_lives_is_not_taken_over() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    assert!(!pair.target.accepts_reattach(SESSION), "it lives");
    pair.pass(Duration::from_secs(1));
    pair.target.handle_time(pair.now).unwrap();
    pair.pass(PEER_SILENCE);
    pair.target.handle_time(pair.now).unwrap();
    assert!(pair.target.accepts_reattach(SESSION), "it does not answer");
    pair.target.reattached(pair.now);
    assert!(!pair.target.accepts_reattach(SESSION), "the new one lives");
}

#[test]
fn the_source_can_take_its_guest_back_from_a_ready_target() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    let abort = Message::Abort {
        code: AbortCode::Cancelled,
        reason: "cancelled".into(),
    };
    let error = pair.target.handle_message(pair.now, abort).unwrap_err();
    pair.target.control_failed(pair.now, error);
    assert!(pair.target.is_over());
    assert_eq!(pair.target.guest_location(), GuestLocation::Source);
}

/// Damage after the hand-over must not cost the target the right that it was given.
#[test]
fn a_granted_guest_runs_whatever_comes_after_the_grant() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.tell_source();
    pair.hand_over();
    pair.tell_target();
    let nonsense = Message::LastRound { round: 9 };
    let error = pair.target.handle_message(pair.now, nonsense).unwrap_err();
    pair.target.control_failed(pair.now, error);
    pair.pass(IN_DOUBT * 2);
    pair.target.handle_time(pair.now).unwrap();
    assert!(matches!(pair.target.poll(pair.now), TargetStep::Run(_)));
    pair.target.running(pair.now, Duration::ZERO);
    pair.source.reattached(pair.now, None);
    pair.source.poll_message();
    assert!(pair.target.accepts_reattach(SESSION));
    pair.target.reattached(pair.now);
    pair.tell_source();
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Completed));
    pair.tell_target();
    assert!(pair.target.is_settled());
}

/// The source hangs between the commit and the hand-over, and wakes up when the target has ended
/// by `abort`: the guest is where?
fn woken_by(abort: AbortCode) -> GuestLocation {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.tell_source();
    let SourceStep::HandOver(ready) = pair.source.poll(pair.now) else {
        panic!("the target is ready");
    };
    pair.pass(IN_DOUBT * 2);
    let abort = Message::Abort {
        code: abort,
        reason: "it has waited long enough".into(),
    };
    let error = pair.source.handle_message(pair.now, abort).unwrap_err();
    pair.source.fail(error);
    let stopped = Ownership::claim().stop();
    let kept = pair.source.relinquished(pair.now, stopped, ready);
    assert!(matches!(pair.source.poll(pair.now), SourceStep::Failed));
    assert_eq!(pair.source.poll_message(), None, "it is not handed over");
    assert_eq!(kept.is_err(), !pair.source.has_handed_over());
    let error = pair.source.take_failure();
    assert!(matches!(error, Some(MigrationError::PeerAborted { .. })));
    pair.source.guest_location()
}

/// A target that has given up in doubt has told its user that the guest may be let run there.
#[test]
fn a_source_that_wakes_too_late_does_not_claim_the_guest() {
    assert_eq!(woken_by(AbortCode::Other), GuestLocation::Unknown);
    // What was to run it has ended.
    assert_eq!(woken_by(AbortCode::Guest), GuestLocation::Source);
}

/// What a peer says is told, and does not pose as more than it is.
#[test]
fn the_words_of_a_peer_are_quoted() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    let abort = || Message::Abort {
        code: AbortCode::Other,
        reason: "no\u{1b}[2J\nthe guest runs here".into(),
    };
    let on_target = pair.target.handle_message(pair.now, abort()).unwrap_err();
    let on_source = pair.source.handle_message(pair.now, abort()).unwrap_err();
    for error in [on_target, on_source] {
        let quoted = r"ended the migration: no\u{1b}[2J\nthe guest runs here";
        assert!(error.to_string().ends_with(quoted), "{error}");
    }
}

#[test]
fn a_guest_that_does_not_start_there_is_there_all_the_same() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.tell_source();
    pair.hand_over();
    let abort = Message::Abort {
        code: AbortCode::Guest,
        reason: "no processor starts".into(),
    };
    pair.source.handle_message(pair.now, abort).unwrap_err();
    assert_eq!(pair.source.guest_location(), GuestLocation::Target);
}

/// Whatever is slow: the guest goes on.
#[test]
fn a_guest_that_is_not_handed_over_within_the_limit_stays() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.tell_source();
    let end = pair.source.standstill_ends().unwrap();
    let limit = DowntimeLimit::Auto.time(Duration::from_millis(50), ByteCount(0));
    assert_eq!(pair.source.longest_standstill(), limit);
    // A target that is prepared and answers is no reason to wait any longer.
    let pong = pair.source.handle_message(end, Message::Pong);
    assert!(pong.unwrap().is_none());
    let before = Instant(end.0 - 1);
    assert!(pair.source.handle_time(before).is_ok());
    let late = pair.source.handle_time(end);
    assert!(
        matches!(late, Err(MigrationError::DowntimeLimit { .. })),
        "{late:?}"
    );
    pair.source.fail(late.unwrap_err());
    assert_eq!(pair.source.guest_location(), GuestLocation::Source);
}

/// The limit is about a guest that is still the source's.
#[test]
fn a_guest_that_was_handed_over_is_waited_for() {
    let mut pair = Pair::new(1);
    pair.until_ready();
    pair.tell_source();
    pair.hand_over();
    assert_eq!(pair.source.standstill_ends(), None);
}

/// A source that answers, and does not say whose the guest is.
#[test]
fn a_prepared_target_may_end_in_doubt_although_its_source_lives() {
    let mut pair = Pair::new(1);
    assert!(!pair.target.waits_for_word());
    pair.until_ready();
    assert!(pair.target.waits_for_word());
    pair.pass(DECISION);
    pair.target.end_in_doubt();
    assert!(pair.target.is_over());
    assert_eq!(pair.target.guest_location(), GuestLocation::Unknown);
}

/// A source that is lost and asks again and again, without a word, is waited for no longer.
#[test]
fn a_wait_for_the_word_outlasts_the_loss_of_the_source() {
    let lost = || MigrationError::PeerSilent { seconds: 5 };
    let mut pair = Pair::new(1);
    pair.until_ready();
    for _ in 0..3 {
        pair.target.control_failed(pair.now, lost());
        assert!(pair.target.is_lost() && pair.target.waits_for_word());
        assert!(pair.target.accepts_reattach(SESSION));
        pair.target.reattached(pair.now);
        assert!(!pair.target.is_lost() && pair.target.waits_for_word());
    }
    pair.target.control_failed(pair.now, lost());
    assert!(pair.target.is_lost());
    pair.target.end_in_doubt();
    assert!(pair.target.is_over());
    assert_eq!(pair.target.guest_location(), GuestLocation::Unknown);
}
