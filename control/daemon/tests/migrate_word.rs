//! The target's word of whose guest it is: what it is given for, what it is asked, and who is believed
//! without it. With real QEMUs.

mod support;

use std::io::Read as _;
use std::process::{Command, Stdio};

use pagelift_rpc::calls::{DomainDefineXml, DomainDestroy, DomainSuspend};
use pagelift_tests::{Skip, require};
use pageliftd::store::{MigrationRecord, Record, Store};
use support::moves::{LIVE, MOVED, Move, PROTECTED_LIVE, STAYS, code, daemon, mute, state};
use support::{Client, Daemon, guest_xml, qemu};

/// Changes what a daemon that does not run has kept of its guest.
fn edit(daemon: &Daemon, change: impl FnOnce(&mut Record)) {
    let store = Store::open(&daemon.dir().join("state")).unwrap();
    let (uuid, mut record) = store.all().unwrap().remove(0);
    change(&mut record);
    store.put(&uuid, &record).unwrap();
}

#[test]
fn a_guest_that_is_only_defined_has_not_arrived() {
    require!(qemu());
    let mut it = Move::begun();
    let xml = guest_xml("g1", 1);
    it.target.call::<DomainDefineXml>(&xml).unwrap();
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
    let other = |cookie: Vec<u8>| {
        let text = String::from_utf8(cookie).unwrap();
        let (before, after) = text.split_once("<pagelift id='").unwrap();
        let digit = if after.starts_with('0') { '1' } else { '0' };
        format!("{before}<pagelift id='{digit}{}", &after[1..]).into_bytes()
    };
    assert_eq!(code(it.finish(other(own), true)), (1, 10));
    let cookie = other(it.cookie.clone());
    assert_eq!(code(it.finish(cookie, true)), (42, 10));
    assert_eq!(it.states(), ("paused (migrating)", "paused (migrating)"));
    let mut it = it.then_finished();
    it.confirm(Vec::new(), false).unwrap();
    it.ends(MOVED.0, MOVED.1);
}

/// libvirt's client does so when it gives up between Prepare and Perform.
#[test]
fn a_client_that_hands_back_the_cookie_of_prepare_drops_the_guest() {
    require!(qemu());
    let mut it = Move::prepared();
    assert_eq!(code(it.finish(it.cookie.clone(), true)), (93, 10));
    it.ends("running (booted)", "none");
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
    it.target.call::<DomainDestroy>(&it.guest).unwrap();
    it.b.crash();
    it.confirm(Vec::new(), true).unwrap();
    it.ends(MOVED.0, "none");
}

#[test]
fn a_target_that_was_killed_before_it_started_the_guest_starts_it() {
    require!(qemu());
    let mut it = Move::finished();
    it.target.call::<DomainSuspend>(&it.guest).unwrap();
    it.b.crash_while(|b| {
        // As it is between the record and the start of the processors.
        edit(b, |record| {
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
        });
    });
    it.confirm(Vec::new(), false).unwrap();
    it.ends(MOVED.0, MOVED.1);
    let log = it.b.log();
    assert!(!log.contains("cannot go on"), "{log}");
    // It does run: QEMU itself says so to a daemon that comes back.
    it.b.crash();
    it.ends(MOVED.0, MOVED.1);
}

#[test]
fn the_question_does_not_need_what_the_guest_was_sent_with() {
    require!(qemu());
    let mut it = Move::finished();
    // Zstd in several connections: refused without the parameters, which are not kept.
    it.a.crash_while(|a| {
        edit(a, |record| {
            record.migration.as_mut().unwrap().flags |= 0x2_0800;
        });
    });
    it.ends(MOVED.0, MOVED.1);
}

/// As of a libvirtd, which says of any guest of that name that it does not arrive.
#[test]
fn where_the_target_may_be_another_the_guest_has_to_be_active() {
    require!(qemu());
    for active in [true, false] {
        let mut it = Move::finished();
        if !active {
            it.target.call::<DomainDestroy>(&it.guest).unwrap();
        }
        it.a.crash_while(|a| {
            edit(a, |record| record.migration.as_mut().unwrap().alike = false);
        });
        if active {
            it.ends(MOVED.0, MOVED.1);
            continue;
        }
        it.a.wait_log("the guest is held");
        it.ends("paused (migrating)", "none");
    }
}

#[test]
fn a_guest_whose_process_has_ended_does_not_arrive_any_more() {
    require!(qemu());
    let mut it = Move::begun();
    let a = it.cookie.clone();
    it.prepare().unwrap();
    it.b.kill_qemus();
    while state(&it.b) != "none" {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let before = std::mem::replace(&mut it.target, Client::open(&it.b));
    it.cookie = a;
    it.prepare().unwrap();
    // What the first client had asked for is not its successor's.
    drop(before);
    let mut it = it.then_performed();
    it.b.kill_qemus();
    it.confirm(Vec::new(), true).unwrap();
    it.ends(STAYS, "none");
}

/// Whether there is a program that can have a disk as QEMU has it.
fn qemu_io() -> Result<(), Skip> {
    match Command::new("qemu-io").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Skip("no qemu-io; apt-get install qemu-utils".into())),
    }
}

#[test]
fn a_guest_that_cannot_start_leaves_nothing_on_the_target() {
    require!(qemu());
    require!(qemu_io());
    let a = daemon(1);
    let disk = a.dir().join("disk.raw");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let xml = guest_xml("g1", 1).replace(
        "<devices>",
        &format!(
            "<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='{}'/><target dev='vda' bus='virtio'/></disk>",
            disk.display()
        ),
    );
    // With UNSAFE, for the disk, and PERSIST_DEST.
    let mut it = Move::begun_with(a, daemon(2), PROTECTED_LIVE | 0x208, &xml);
    it.prepare().unwrap();
    let mut it = it.then_performed();
    // Somebody else has the disk: QEMU cannot let the guest run.
    let mut other = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(&disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut prompt = [0; 7];
    other
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut prompt)
        .unwrap();
    assert_eq!(&prompt, b"qemu-io");
    let finished = it.finish(it.cookie.clone(), false);
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(code(finished), (1, 10));
    assert_eq!(state(&it.b), "none", "neither running nor defined");
    it.confirm(Vec::new(), true).unwrap();
    it.ends(STAYS, "none");
}
