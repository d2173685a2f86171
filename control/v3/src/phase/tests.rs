//! Calls at the wrong time, and ways that the matrix does not have.

use super::matrix::{BEGUN, CLIENT, FINISHED, MANAGED, MOVES, PERFORMED, PERFORMING, STAYS, world};
use super::simulator::World;
use super::*;

#[test]
fn a_held_guest_waits_for_the_target_or_a_person() {
    let mut w = world(MANAGED, FINISHED);
    assert_eq!(
        w.on_source(Source::decided_to_stay),
        Err(Refusal::AlreadyPerformed)
    );
    w.linked = false;
    w.confirm(true).unwrap();
    w.settle();
    assert!(w.said_held && !w.source.may_run());
    w.linked = true;
    w.settle();
    assert_eq!((w.source_guest, w.target_guest), MOVES);
    // The target is gone for good, and somebody has made sure of it.
    let mut w = world(MANAGED, PERFORMED);
    w.linked = false;
    w.source_does(|source| source.client_lost(CLIENT));
    w.settle();
    w.source_does(|source| source.decided_to_stay().unwrap());
    w.target_does(|target| target.client_lost(CLIENT));
    w.settle();
    assert_eq!((w.source_guest, w.target_guest), STAYS);
}

#[test]
fn calls_at_the_wrong_time_have_libvirts_codes() {
    let code = |refusal: Refusal| {
        let error = refusal.error("g1");
        (error.code.number(), error.domain.number())
    };
    let mut w = world(MANAGED, BEGUN);
    assert_eq!(
        w.on_source(|s| s.begin(MANAGED, false)),
        Err(Refusal::AlreadyMoving)
    );
    assert_eq!(
        Refusal::AlreadyMoving.error("g1").message(),
        "Requested operation is not valid: another migration job is already running for domain 'g1'"
    );
    w.prepare(CLIENT).unwrap();
    assert_eq!(w.prepare(CLIENT), Err(Refusal::AlreadyActive));
    assert_eq!(code(Refusal::AlreadyActive), (55, 20));
    let mut idle = World::new();
    assert_eq!(idle.perform(MANAGED), Err(Refusal::NotMoving));
    assert_eq!(idle.confirm(true), Err(Refusal::NotMoving));
    assert_eq!(code(Refusal::NotMoving), (55, 10));
    assert_eq!(idle.finish(true), Err(Refusal::NoGuest));
    assert_eq!(code(Refusal::NoGuest), (42, 10));
    assert_eq!(idle.on_source(Source::abort), Err(Refusal::NoJob));
    let mut done = world(MANAGED, FINISHED);
    assert_eq!(done.finish(false), Err(Refusal::NotIncoming));
    assert_eq!(code(Refusal::NotIncoming), (55, 10));
}

/// Without change protection Begin binds nothing; Confirm works all the same, by whatever connection.
#[test]
fn an_unprotected_migration_can_be_confirmed() {
    let mut w = World::new();
    w.prepare(CLIENT).unwrap();
    w.on_source(|source| source.perform(MANAGED, true)).unwrap();
    w.qemu_ends(true, true);
    w.finish(false).unwrap();
    w.settle();
    w.confirm(false).unwrap();
    w.settle();
    assert_eq!((w.source_guest, w.target_guest), MOVES);
}

#[test]
fn in_postcopy_there_is_no_way_back() {
    let mut w = world(MANAGED, PERFORMING);
    w.on_source(Source::postcopy);
    assert_eq!(w.on_source(Source::abort), Err(Refusal::InPostcopy));
    assert_eq!(w.source.record(), Some(SourceRecord::Performed));
    w.source_does(|source| source.client_lost(CLIENT));
    assert!(matches!(
        w.source,
        Source::Performing {
            cancelled: true,
            ..
        }
    ));
}

#[test]
fn a_definition_moves_without_perform() {
    let mut source = Source::Idle;
    source.begin(MANAGED, true).unwrap();
    assert_eq!(source.perform(MANAGED, false), Err(Refusal::NotMoving));
    assert_eq!(source.confirm(false), Ok(vec![SourceAction::EndJob]));
}
