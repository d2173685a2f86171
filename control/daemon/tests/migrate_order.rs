//! Migrations whose order of calls is broken: by clients that are lost, daemons that are killed, calls at
//! the wrong time. With real QEMUs; the rows of the failure matrix in docs/v3.md.

mod support;

use std::time::Instant;

use pagelift_rpc::calls::{
    BeginArgs, BeginParamsArgs, ConfirmArgs, ConfirmParamsArgs, DomainLookupByName, FinishArgs,
    FinishParamsArgs, MigrateBegin3, MigrateBegin3Params, MigrateConfirm3, MigrateConfirm3Params,
    MigrateFinish3, MigrateFinish3Params, MigratePerform3, MigratePerform3Params, MigratePrepare3,
    MigratePrepare3Params, PerformArgs, PerformParamsArgs, PrepareArgs, PrepareParamsArgs,
};
use pagelift_rpc::error::Error;
use pagelift_rpc::params::{Params, TypedParam};
use pagelift_rpc::types::Domain;
use pagelift_rpc::xdr::Opaque;
use pagelift_tests::{PATIENCE, require};
use pageliftd::store::{MigrationRecord, Store};
use support::{Client, Daemon, guest_xml, parts, qemu};

const PROTECTED_LIVE: u32 = 0x101;
const LIVE: u32 = 0x1;

/// One that cannot be asked by others.
fn mute(number: u8) -> Daemon {
    Daemon::start(&config(number))
}

fn daemon(number: u8) -> Daemon {
    let uri = "uri = \"qemu+unix:///system?socket=@DIR@/run/pageliftd-sock\"\n";
    Daemon::start(&(config(number) + uri))
}

fn config(number: u8) -> String {
    format!(
        "[host]\nname = \"host{number}\"\nuuid = \"{number}1111111-1111-4111-8111-111111111111\"\n\
         [migration]\naddress = \"127.0.0.1\"\nlisten = \"127.0.0.1\"\n"
    )
}

/// A migration of g1, and how far it is.
struct Move {
    a: Daemon,
    b: Daemon,
    source: Client,
    target: Client,
    guest: Domain,
    xml: String,
    cookie: Vec<u8>,
    uri: String,
    /// Of Begin and Perform.
    flags: u32,
}

fn params(all: &[(&str, &str)]) -> Params {
    let all: Vec<_> = all
        .iter()
        .map(|(name, value)| TypedParam::new(*name, *value))
        .collect();
    all.try_into().unwrap()
}

impl Move {
    /// After Begin.
    fn begun() -> Self {
        Self::begun_between(daemon(1), daemon(2), PROTECTED_LIVE)
    }

    fn begun_between(a: Daemon, b: Daemon, flags: u32) -> Self {
        let mut source = Client::open(&a);
        let xml = guest_xml("g1", 1);
        source
            .call::<pagelift_rpc::calls::DomainDefineXml>(&xml)
            .unwrap();
        let guest = source.call::<DomainLookupByName>(&"g1".into()).unwrap();
        source
            .call::<pagelift_rpc::calls::DomainCreate>(&guest)
            .unwrap();
        let guest = source.call::<DomainLookupByName>(&"g1".into()).unwrap();
        let target = Client::open(&b);
        let mut this = Self {
            a,
            b,
            source,
            target,
            guest,
            xml: String::new(),
            cookie: Vec::new(),
            uri: String::new(),
            flags,
        };
        this.begin().unwrap();
        this
    }

    fn begin(&mut self) -> Result<(), Error> {
        let begun = self.source.call::<MigrateBegin3Params>(&BeginParamsArgs {
            domain: self.guest.clone(),
            params: params(&[]),
            flags: self.flags,
        })?;
        (self.xml, self.cookie) = (begun.xml, begun.cookie.0);
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), Error> {
        let prepared = self
            .target
            .call::<MigratePrepare3Params>(&PrepareParamsArgs {
                params: params(&[("destination_xml", &self.xml)]),
                cookie: Opaque(self.cookie.clone()),
                flags: LIVE,
            })?;
        (self.uri, self.cookie) = (prepared.uri.unwrap(), prepared.cookie.0);
        Ok(())
    }

    /// After Prepare.
    fn prepared() -> Self {
        let mut this = Self::begun();
        this.prepare().unwrap();
        this
    }

    fn perform(&mut self, uri: &str, cookie: Vec<u8>) -> Result<Vec<u8>, Error> {
        let all = [("destination_xml", &*self.xml), ("migrate_uri", uri)];
        let all = if uri.is_empty() { &all[..1] } else { &all };
        let performed = self
            .source
            .call::<MigratePerform3Params>(&PerformParamsArgs {
                domain: self.guest.clone(),
                destination: None,
                params: params(all),
                cookie: Opaque(cookie),
                flags: self.flags,
            });
        performed.map(|cookie| cookie.0)
    }

    /// After Perform.
    fn performed() -> Self {
        Self::prepared().then_performed()
    }

    fn then_performed(mut self) -> Self {
        let (uri, cookie) = (self.uri.clone(), self.cookie.clone());
        self.cookie = self.perform(&uri, cookie).unwrap();
        assert_eq!(self.states(), ("paused (migrating)", "paused (migrating)"));
        self
    }

    fn finish(&mut self, cookie: Vec<u8>, cancelled: bool) -> Result<Vec<u8>, Error> {
        let finished = self.target.call::<MigrateFinish3Params>(&FinishParamsArgs {
            params: params(&[("destination_name", "g1")]),
            cookie: Opaque(cookie),
            flags: LIVE,
            cancelled: cancelled.into(),
        });
        finished.map(|reply| reply.cookie.0)
    }

    /// After Finish.
    fn finished() -> Self {
        Self::performed().then_finished()
    }

    fn then_finished(mut self) -> Self {
        let cookie = self.cookie.clone();
        self.cookie = self.finish(cookie, false).unwrap();
        assert_eq!(self.states(), ("paused (migrating)", "running (migrated)"));
        self
    }

    fn confirm(&mut self, cookie: Vec<u8>, cancelled: bool) -> Result<(), Error> {
        self.source
            .call::<MigrateConfirm3Params>(&ConfirmParamsArgs {
                domain: self.guest.clone(),
                params: params(&[]),
                cookie: Opaque(cookie),
                flags: PROTECTED_LIVE,
                cancelled: cancelled.into(),
            })
    }

    fn states(&self) -> (&'static str, &'static str) {
        (state(&self.a), state(&self.b))
    }

    /// Waits until the guest is where it is to be.
    fn ends(&self, source: &str, target: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.states() != (source, target) {
            let (a, b) = (self.a.log(), self.b.log());
            assert!(Instant::now() < deadline, "{:?}\n{a}\n{b}", self.states());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let runs =
            |state: &str| usize::from(!state.starts_with("none") && !state.starts_with("shut"));
        assert_eq!(self.a.qemus().len(), runs(source));
        assert_eq!(self.b.qemus().len(), runs(target));
    }

    /// The client's connections end.
    fn client_is_lost(&mut self) {
        self.source = Client::open(&self.a);
        self.target = Client::open(&self.b);
    }
}

/// What virsh would say of g1.
fn state(daemon: &Daemon) -> &'static str {
    let mut client = Client::open(daemon);
    let Ok(domain) = client.call::<DomainLookupByName>(&"g1".into()) else {
        return "none";
    };
    let args = pagelift_rpc::calls::DomainFlagsArgs { domain, flags: 0 };
    let Ok(state) = client.call::<pagelift_rpc::calls::DomainGetState>(&args) else {
        return "none";
    };
    match (state.state, state.reason) {
        (1, 1) => "running (booted)",
        (1, 2) => "running (migrated)",
        (1, 6) => "running (migration canceled)",
        (3, 2) => "paused (migrating)",
        (5, 4) => "shut off (migrated)",
        (5, _) => "shut off",
        other => panic!("{other:?}"),
    }
}

const STAYS: &str = "running (migration canceled)";
const MOVED: (&str, &str) = ("shut off (migrated)", "running (migrated)");

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> (i32, i32) {
    let error = result.unwrap_err();
    (parts(&error).0, parts(&error).1)
}

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

#[test]
fn a_guest_that_is_only_defined_has_not_arrived() {
    require!(qemu());
    let mut it = Move::begun();
    let xml = guest_xml("g1", 1);
    it.target
        .call::<pagelift_rpc::calls::DomainDefineXml>(&xml)
        .unwrap();
    it.prepare().unwrap();
    let mut it = it.then_performed();
    assert_eq!(code(it.finish(it.cookie.clone(), true)), (93, 10));
    it.confirm(Vec::new(), true).unwrap();
    it.ends(STAYS, "shut off");
}

#[test]
fn a_question_about_another_migration_or_by_the_host_itself_touches_nothing() {
    require!(qemu());
    let it = Move::prepared();
    let own = it.cookie.clone();
    let mut it = it.then_performed();
    assert_eq!(code(it.finish(own, true)), (1, 10), "the host itself");
    let text = String::from_utf8(it.cookie.clone()).unwrap();
    let (before, after) = text.split_once("<pagelift id='").unwrap();
    let digit = if after.starts_with('0') { '1' } else { '0' };
    let other = format!("{before}<pagelift id='{digit}{}", &after[1..]);
    assert_eq!(code(it.finish(other.into_bytes(), true)), (42, 10));
    assert_eq!(it.states(), ("paused (migrating)", "paused (migrating)"));
    let mut it = it.then_finished();
    it.confirm(Vec::new(), false).unwrap();
    it.ends(MOVED.0, MOVED.1);
}

#[test]
fn the_client_is_not_believed_where_the_target_cannot_be_asked() {
    require!(qemu());
    let mut it = Move::begun_between(mute(1), mute(2), PROTECTED_LIVE);
    it.prepare().unwrap();
    let mut it = it.then_performed().then_finished();
    it.confirm(Vec::new(), true).unwrap();
    it.a.wait_log("the guest is held");
    assert_eq!(it.states(), ("paused (migrating)", "running (migrated)"));
    assert!(it.b.log().contains("set migration.uri"));
    // That it has moved does no harm.
    it.confirm(Vec::new(), false).unwrap();
    it.ends(MOVED.0, MOVED.1);
}

#[test]
fn a_migration_ends_with_the_connection_that_performs() {
    require!(qemu());
    let mut it = Move::prepared();
    let began = std::mem::replace(&mut it.source, Client::open(&it.a));
    let mut it = it.then_performed();
    it.client_is_lost();
    it.ends(STAYS, "none");
    drop(began);
}

#[test]
fn a_source_that_settles_by_itself_undefines_the_guest() {
    require!(qemu());
    let mut it = Move::begun_between(daemon(1), daemon(2), PROTECTED_LIVE | 0x10);
    it.prepare().unwrap();
    let mut it = it.then_performed().then_finished();
    it.client_is_lost();
    it.ends("none", MOVED.1);
}

#[test]
fn a_restarted_target_knows_what_has_come_though_it_has_ended() {
    require!(qemu());
    let mut it = Move::finished();
    it.target
        .call::<pagelift_rpc::calls::DomainDestroy>(&it.guest)
        .unwrap();
    it.b.crash();
    it.confirm(Vec::new(), true).unwrap();
    it.ends(MOVED.0, "none");
}

#[test]
fn a_target_that_was_killed_before_it_started_the_guest_starts_it() {
    require!(qemu());
    let mut it = Move::finished();
    it.target
        .call::<pagelift_rpc::calls::DomainSuspend>(&it.guest)
        .unwrap();
    it.b.crash_while(|b| {
        // As it is between the record and the start of the processors.
        let store = Store::open(&b.dir().join("state")).unwrap();
        let (uuid, mut record) = store.all().unwrap().remove(0);
        record.state = (1, 2);
        record.migration = Some(MigrationRecord {
            source: false,
            phase: "running".into(),
            id: "bbbbbbbb-0000-4000-8000-000000000001".into(),
            name: "g1".into(),
            target_name: "g1".into(),
            ask: None,
            before: (3, 2),
            flags: LIVE,
            alike: true,
        });
        store.put(&uuid, &record).unwrap();
    });
    it.confirm(Vec::new(), false).unwrap();
    it.ends(MOVED.0, MOVED.1);
    let log = it.b.log();
    assert!(!log.contains("cannot go on"), "{log}");
    // It does run: QEMU itself says so to a daemon that comes back.
    it.b.crash();
    it.ends(MOVED.0, MOVED.1);
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
