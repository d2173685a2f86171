//! Migrations whose order of calls is broken: by clients that are lost, daemons that are killed, calls at
//! the wrong time. With real QEMUs; the rows of the failure matrix in docs/v3.md.

mod support;

use pagelift_rpc::calls::{
    BeginArgs, ConfirmArgs, ConfirmParamsArgs, FinishArgs, MigrateBegin3, MigrateConfirm3,
    MigrateConfirm3Params, MigrateFinish3, MigratePerform3, MigratePrepare3, PerformArgs,
    PrepareArgs,
};
use pagelift_rpc::xdr::Opaque;
use pagelift_tests::require;
use support::moves::{LIVE, MOVED, Move, PROTECTED_LIVE, STAYS, code, params, state};
use support::{Client, guest_xml, qemu};

#[test]
fn a_client_that_is_lost_before_perform_leaves_the_guest_alone() {
    require!(qemu());
    let mut it = Move::begun();
    assert_eq!(code(it.begin()), (55, 10), "another migration");
    it.client_is_lost();
    it.ends("running (booted)", "none");
    // And the guest can be moved again.
    it.begin().unwrap();
    let a = it.cookie.clone();
    it.prepare().unwrap();
    it.cookie = a;
    assert_eq!(code(it.prepare()), (55, 20), "already active");
    it.client_is_lost();
    it.ends("running (booted)", "none");
}

#[test]
fn a_client_that_is_lost_after_perform_leaves_one_guest() {
    require!(qemu());
    let mut it = Move::performed();
    it.client_is_lost();
    it.ends(STAYS, "none");
}

#[test]
fn a_client_that_is_lost_after_finish_leaves_one_guest() {
    require!(qemu());
    let mut it = Move::finished();
    it.client_is_lost();
    it.ends(MOVED.0, MOVED.1);
}

#[test]
fn a_lost_answer_of_finish_does_not_double_the_guest() {
    require!(qemu());
    let mut it = Move::finished();
    it.confirm(Vec::new(), true).unwrap();
    it.ends(MOVED.0, MOVED.1);
}

#[test]
fn a_finish_that_failed_gives_the_guest_back() {
    require!(qemu());
    let mut it = Move::performed();
    assert_eq!(code(it.finish(b"junk\0".to_vec(), false)), (35, 10));
    it.confirm(Vec::new(), true).unwrap();
    it.ends(STAYS, "none");
}

#[test]
fn calls_at_the_wrong_time_touch_nothing() {
    require!(qemu());
    let mut it = Move::prepared();
    let b = it.cookie.clone();
    assert_eq!(
        code(it.confirm(Vec::new(), false)),
        (55, 10),
        "nothing was sent"
    );
    assert_eq!(
        code(it.finish(Vec::new(), false)),
        (55, 10),
        "nothing has come"
    );
    // A libvirtd 11.3 dies of the next two.
    assert_eq!(code(it.perform("", b.clone())), (8, 10));
    assert_eq!(it.states(), ("running (booted)", "paused (migrating)"));
    let uri = it.uri.clone();
    it.cookie = it.perform(&uri, b.clone()).unwrap();
    assert_eq!(code(it.perform(&uri, b)), (55, 10), "it was sent already");
    assert_eq!(it.states(), ("paused (migrating)", "paused (migrating)"));
    let c = it.cookie.clone();
    it.cookie = it.finish(c.clone(), false).unwrap();
    assert_eq!(code(it.finish(c, false)), (55, 10), "it has come already");
    // What the target says in its cookie does not matter for whose guest it is.
    it.confirm(b"junk\0".to_vec(), false).unwrap();
    it.ends(MOVED.0, MOVED.1);
    assert_eq!(code(it.confirm(Vec::new(), false)), (55, 10), "it is over");
}

#[test]
fn an_empty_cookie_is_refused_on_both_sides() {
    require!(qemu());
    let mut it = Move::begun();
    let a = std::mem::take(&mut it.cookie);
    assert_eq!(code(it.prepare()), (8, 10));
    it.cookie = a;
    it.prepare().unwrap();
    let uri = it.uri.clone();
    assert_eq!(code(it.perform(&uri, Vec::new())), (8, 10));
    assert_eq!(code(it.finish(Vec::new(), true)), (93, 10));
    assert_eq!(code(it.finish(Vec::new(), true)), (42, 10));
    it.ends("running (booted)", "none");
}

#[test]
fn a_killed_source_settles_when_it_comes_back() {
    require!(qemu());
    for finished in [false, true] {
        let mut it = if finished {
            Move::finished()
        } else {
            Move::performed()
        };
        it.a.crash();
        match finished {
            true => it.ends(MOVED.0, MOVED.1),
            false => it.ends(STAYS, "none"),
        }
    }
}

#[test]
fn a_killed_target_drops_or_keeps_what_it_has_said() {
    require!(qemu());
    let mut it = Move::performed();
    it.b.crash();
    it.target = Client::open(&it.b);
    it.confirm(Vec::new(), true).unwrap();
    it.ends(STAYS, "none");
    let mut it = Move::finished();
    it.b.crash();
    it.confirm(Vec::new(), true).unwrap();
    it.ends(MOVED.0, MOVED.1);
}

#[test]
fn a_source_whose_target_is_silent_holds_the_guest_until_it_answers() {
    require!(qemu());
    let mut it = Move::finished();
    let guest = it.guest.clone();
    let Move { a, b, source, .. } = &mut it;
    b.crash_while(|_| {
        let args = ConfirmParamsArgs {
            domain: guest.clone(),
            params: params(&[]),
            cookie: Opaque(Vec::new()),
            flags: PROTECTED_LIVE,
            cancelled: 1,
        };
        source.call::<MigrateConfirm3Params>(&args).unwrap();
        a.wait_log("the guest is held");
        assert_eq!(state(a), "paused (migrating)");
    });
    it.ends(MOVED.0, MOVED.1);
}

#[test]
fn a_person_may_keep_a_held_guest() {
    require!(qemu());
    let mut it = Move::performed();
    let guest = it.guest.clone();
    let Move { a, b, source, .. } = &mut it;
    b.crash_while(|b| {
        let early = source.call::<pagelift_rpc::calls::DomainResume>(&guest);
        assert_eq!(code(early), (55, 10), "nobody has asked the target");
        let args = ConfirmParamsArgs {
            domain: guest.clone(),
            params: params(&[]),
            cookie: Opaque(Vec::new()),
            flags: PROTECTED_LIVE,
            cancelled: 1,
        };
        source.call::<MigrateConfirm3Params>(&args).unwrap();
        a.wait_log("the guest is held");
        // The person makes sure of it.
        b.kill_qemus();
        source
            .call::<pagelift_rpc::calls::DomainResume>(&guest)
            .unwrap();
        assert_eq!(state(a), STAYS);
    });
    it.ends(STAYS, "none");
}

/// What is described to the target stays the guest's description until the migration has ended.
#[test]
fn a_guest_that_is_bound_is_not_defined_anew() {
    require!(qemu());
    let mut it = Move::begun();
    let mut other = Client::open(&it.a);
    let args = pagelift_rpc::calls::DomainFlagsArgs {
        domain: it.guest.clone(),
        flags: 2,
    };
    let defined = |it: &mut Move| {
        let xml = it
            .source
            .call::<pagelift_rpc::calls::DomainGetXmlDesc>(&args);
        xml.unwrap().contains("<vcpu placement='static'>2</vcpu>")
    };
    let xml = guest_xml("g1", 1).replace("<vcpu>1", "<vcpu>2");
    other.send_message(&pagelift_rpc::message::Message::call::<
        pagelift_rpc::calls::DomainDefineXml,
    >(9, &xml));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!defined(&mut it));
    it.confirm(Vec::new(), true).unwrap();
    let reply = other.reply().unwrap();
    support::result::<pagelift_rpc::calls::DomainDefineXml>(&reply).unwrap();
    assert!(defined(&mut it));
}

/// Clients of old, and those that find no typed parameters: a field for each parameter.
#[test]
fn a_guest_moves_by_calls_with_fields() {
    require!(qemu());
    let mut it = Move::begun();
    it.client_is_lost();
    it.ends("running (booted)", "none");
    let (flags, told) = (u64::from(PROTECTED_LIVE), u64::from(LIVE));
    let begun = it.source.call::<MigrateBegin3>(&BeginArgs {
        domain: it.guest.clone(),
        xml: None,
        flags,
        name: None,
        bandwidth: 0,
    });
    let begun = begun.unwrap();
    let prepared = it.target.call::<MigratePrepare3>(&PrepareArgs {
        cookie: begun.cookie,
        uri: None,
        flags: told,
        name: None,
        bandwidth: 0,
        xml: begun.xml,
    });
    let prepared = prepared.unwrap();
    let c = it.source.call::<MigratePerform3>(&PerformArgs {
        domain: it.guest.clone(),
        xml: None,
        cookie: prepared.cookie,
        destination: None,
        uri: prepared.uri.clone(),
        flags,
        name: None,
        bandwidth: 100,
    });
    let finished = it.target.call::<MigrateFinish3>(&FinishArgs {
        name: "g1".into(),
        cookie: c.unwrap(),
        destination: None,
        uri: prepared.uri,
        flags: told,
        cancelled: 0,
    });
    let finished = finished.unwrap();
    assert_eq!(
        (finished.domain.name.as_str(), finished.domain.uuid),
        ("g1", it.guest.uuid)
    );
    let confirmed = it.source.call::<MigrateConfirm3>(&ConfirmArgs {
        domain: it.guest.clone(),
        cookie: finished.cookie,
        flags,
        cancelled: 0,
    });
    confirmed.unwrap();
    it.ends(MOVED.0, MOVED.1);
}
