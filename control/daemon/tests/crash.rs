//! A daemon that is killed finds everything again that it has started.

mod support;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pagelift_rpc::calls::{DomainCreate, DomainDefineXml, DomainLookupByName};
use pagelift_rpc::message::Message;
use pagelift_tests::{PATIENCE, require};
use support::{Client, Daemon, guest_xml, qemu, virsh};

#[test]
fn guests_live_on_and_are_found_again() {
    require!(virsh());
    require!(qemu());
    let mut daemon = Daemon::start("");
    for (name, number) in [("runs", 1), ("paused", 2), ("off", 3)] {
        let file = daemon.file("g.xml", &guest_xml(name, number));
        daemon.virsh_ok(&["define", &file]);
    }
    let file = daemon.file("g.xml", &guest_xml("transient", 4));
    daemon.virsh_ok(&["create", &file]);
    daemon.virsh_ok(&["start", "runs"]);
    daemon.virsh_ok(&["start", "--paused", "paused"]);
    daemon.virsh_ok(&["autostart", "runs"]);
    let live = daemon.virsh_ok(&["dumpxml", "runs"]);
    let qemus = daemon.qemus();

    daemon.crash();
    assert_eq!(daemon.qemus(), qemus);
    for (name, expected) in [
        ("runs", "running (booted)"),
        ("paused", "paused (user)"),
        ("off", "shut off (unknown)"),
        ("transient", "running (booted)"),
    ] {
        assert_eq!(
            daemon.virsh_ok(&["domstate", "--reason", name]).trim(),
            expected,
            "{name}"
        );
    }
    assert_eq!(daemon.virsh_ok(&["dumpxml", "runs"]), live);
    assert!(
        daemon
            .virsh_ok(&["dominfo", "runs"])
            .contains("Autostart:      enable")
    );
    // Numbers are not given twice.
    daemon.virsh_ok(&["start", "off"]);
    assert_eq!(daemon.virsh_ok(&["domid", "off"]).trim(), "4");
    // They are managed as before.
    daemon.virsh_ok(&["suspend", "runs"]);
    for name in ["runs", "paused", "off", "transient"] {
        daemon.virsh_ok(&["destroy", name]);
    }
    assert!(daemon.qemus().is_empty());
    assert_eq!(
        daemon
            .virsh_ok(&["list", "--all", "--name"])
            .split_whitespace()
            .count(),
        3
    );
}

#[test]
fn a_guest_that_ended_meanwhile_is_shut_off() {
    require!(virsh());
    require!(qemu());
    let mut daemon = Daemon::start("");
    let file = daemon.file("g1.xml", &guest_xml("g1", 1));
    daemon.virsh_ok(&["define", &file]);
    daemon.virsh_ok(&["start", "g1"]);
    daemon.crash_while(|daemon| daemon.kill_qemus());
    assert_eq!(
        daemon.virsh_ok(&["domstate", "--reason", "g1"]).trim(),
        "shut off (daemon)"
    );
    daemon.virsh_ok(&["start", "g1"]);
    daemon.kill_qemus();
    daemon.wait_log("guest ended");
    assert_eq!(
        daemon.virsh_ok(&["domstate", "--reason", "g1"]).trim(),
        "shut off (crashed)"
    );
}

/// Somebody else has its monitor when the daemon comes back: that is no reason to end a guest.
#[test]
fn a_guest_that_cannot_be_asked_is_kept() {
    require!(virsh());
    require!(qemu());
    let mut daemon = Daemon::start("");
    let mut holders = Vec::new();
    for (name, number) in [("g1", 1), ("g2", 2)] {
        let file = daemon.file("g.xml", &guest_xml(name, number));
        daemon.virsh_ok(&["create", &file]);
    }
    let qemus = daemon.qemus();
    daemon.crash_while(|daemon| {
        for number in [1, 2] {
            let path = format!("run/guests/aaaaaaaa-0000-4000-8000-00000000000{number}/qmp");
            let mut holder = UnixStream::connect(daemon.dir().join(path)).unwrap();
            // The greeting: it is this client's turn.
            assert!(holder.read(&mut [0; 1000]).unwrap() > 0);
            holders.push(holder);
        }
    });
    let state = |daemon: &Daemon, name: &str| {
        let state = daemon.virsh_ok(&["domstate", "--reason", name]);
        state.trim().to_owned()
    };
    // Twice: what is kept of it is not changed by that.
    for _ in 0..2 {
        assert_eq!(daemon.qemus(), qemus, "{}", daemon.log());
        for name in ["g1", "g2"] {
            assert!(state(&daemon, name).starts_with("no state"));
            let why = daemon.virsh_fails(&["suspend", name]);
            assert!(why.contains("does not answer"), "{why}");
        }
        daemon.wait_log("a guest that may run cannot be asked");
        daemon.crash();
    }
    daemon.virsh_ok(&["destroy", "g2"]);
    assert_eq!(daemon.qemus().len(), 1);
    drop(holders);
    let deadline = Instant::now() + PATIENCE;
    while state(&daemon, "g1") != "running (booted)" {
        assert!(Instant::now() < deadline, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.virsh_ok(&["suspend", "g1"]);
    assert_eq!(daemon.qemus().len(), 1);
}

#[test]
fn a_start_that_is_interrupted_leaves_a_guest_that_runs_or_does_not() {
    require!(qemu());
    let mut daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    let g1 = client.call::<DomainDefineXml>(&guest_xml("g1", 1)).unwrap();
    for round in 0..8 {
        let mut client = Client::open(&daemon);
        client.send_message(&Message::call::<DomainCreate>(9, &g1));
        std::thread::sleep(Duration::from_millis(round * 12));
        daemon.crash();
        let mut client = Client::open(&daemon);
        let there = client.call::<DomainLookupByName>(&"g1".into()).unwrap();
        let runs = usize::from(there.id != -1);
        assert_eq!(
            daemon.qemus().len(),
            runs,
            "round {round}: {there:?}\n{}",
            daemon.log()
        );
        if runs == 1 {
            client
                .call::<pagelift_rpc::calls::DomainDestroy>(&there)
                .unwrap();
        }
        assert!(daemon.qemus().is_empty());
    }
}
