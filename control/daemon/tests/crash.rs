//! A daemon that is killed finds everything again that it has started.

mod support;

use std::time::Duration;

use pagelift_rpc::calls::{DomainCreate, DomainDefineXml, DomainLookupByName};
use pagelift_rpc::message::Message;
use pagelift_tests::require;
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
