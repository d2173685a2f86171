//! The life of guests, by stock virsh and with real QEMUs.

mod support;

use pagelift_rpc::calls::{
    DomainCreateXml, DomainDefineXml, DomainDestroy, DomainFlagsArgs, DomainGetState,
    DomainLookupByName, Open, XmlFlagsArgs,
};
use pagelift_tests::require;
use support::{Client, Daemon, guest_xml, open_args, parts, qemu, virsh};

#[test]
fn a_whole_life_by_virsh() {
    require!(virsh());
    require!(qemu());
    let daemon = Daemon::start("");
    let file = daemon.file("g1.xml", &guest_xml("g1", 1));
    let state = |expected: &str| {
        assert_eq!(
            daemon.virsh_ok(&["domstate", "--reason", "g1"]).trim(),
            expected
        );
    };

    let said = daemon.virsh_ok(&["define", &file]);
    assert!(said.starts_with("Domain 'g1' defined from"), "{said}");
    state("shut off (unknown)");
    assert_eq!(daemon.virsh_ok(&["list", "--name"]).trim(), "");
    assert_eq!(daemon.virsh_ok(&["list", "--all", "--name"]).trim(), "g1");

    assert!(
        daemon
            .virsh_ok(&["start", "g1"])
            .contains("Domain 'g1' started")
    );
    state("running (booted)");
    assert_eq!(daemon.qemus().len(), 1);
    let info = daemon.virsh_ok(&["dominfo", "g1"]);
    for line in [
        "Id:             1",
        "Name:           g1",
        "UUID:           aaaaaaaa-0000-4000-8000-000000000001",
        "OS Type:        hvm",
        "State:          running",
        "CPU(s):         1",
        "Max memory:     32768 KiB",
        "Persistent:     yes",
        "Autostart:      disable",
        "Security model: none",
    ] {
        assert!(info.contains(line), "{line}: {info}");
    }
    assert_eq!(daemon.virsh_ok(&["domid", "g1"]).trim(), "1");
    assert!(
        daemon
            .virsh_fails(&["start", "g1"])
            .contains("Domain is already active")
    );

    daemon.virsh_ok(&["suspend", "g1"]);
    state("paused (user)");
    daemon.virsh_ok(&["resume", "g1"]);
    state("running (unpaused)");
    daemon.virsh_ok(&["shutdown", "g1"]);

    // A definition that is removed leaves the guest that runs.
    daemon.virsh_ok(&["undefine", "g1"]);
    assert!(
        daemon
            .virsh_ok(&["dominfo", "g1"])
            .contains("Persistent:     no")
    );
    daemon.virsh_ok(&["define", &file]);

    assert!(
        daemon
            .virsh_ok(&["destroy", "g1"])
            .contains("Domain 'g1' destroyed")
    );
    state("shut off (destroyed)");
    assert!(daemon.qemus().is_empty());
    assert!(
        daemon
            .virsh_ok(&["undefine", "g1"])
            .contains("Domain 'g1' has been undefined")
    );
    assert!(
        daemon
            .virsh_fails(&["domstate", "g1"])
            .contains("failed to get domain 'g1'")
    );
}

#[test]
fn descriptions_by_virsh() {
    require!(virsh());
    require!(qemu());
    let daemon = Daemon::start("");
    let file = daemon.file("g1.xml", &guest_xml("g1", 1));
    daemon.virsh_ok(&["define", &file]);
    let defined = daemon.virsh_ok(&["dumpxml", "g1"]);
    // The machine has got the version that QEMU has for it.
    assert!(defined.contains("machine='pc-i440fx-"), "{defined}");
    assert!(!defined.contains("<alias"), "{defined}");
    daemon.virsh_ok(&["start", "g1"]);
    let live = daemon.virsh_ok(&["dumpxml", "g1"]);
    assert!(live.starts_with("<domain type='qemu' id='1'>"), "{live}");
    assert!(live.contains("<alias"), "{live}");
    assert_eq!(daemon.virsh_ok(&["dumpxml", "--inactive", "g1"]), defined);
    let migratable = daemon.virsh_ok(&["dumpxml", "--migratable", "g1"]);
    assert!(
        !migratable.contains("id='1'") && !migratable.contains("piix3"),
        "{migratable}"
    );
    // What is dumped can be defined.
    let again = daemon.file("again.xml", &defined);
    daemon.virsh_ok(&["define", &again]);
    assert_eq!(daemon.virsh_ok(&["dumpxml", "--inactive", "g1"]), defined);
}

#[test]
fn a_guest_without_a_definition_is_gone_when_it_ends() {
    require!(virsh());
    require!(qemu());
    let daemon = Daemon::start("");
    let file = daemon.file("g2.xml", &guest_xml("g2", 2));
    daemon.virsh_ok(&["create", "--paused", &file]);
    assert_eq!(
        daemon.virsh_ok(&["domstate", "--reason", "g2"]).trim(),
        "paused (user)"
    );
    assert!(
        daemon
            .virsh_fails(&["create", &file])
            .contains("domain 'g2' is already active")
    );
    daemon.virsh_ok(&["resume", "g2"]);
    daemon.virsh_ok(&["destroy", "g2"]);
    assert_eq!(daemon.virsh_ok(&["list", "--all", "--name"]).trim(), "");
}

#[test]
fn errors_have_the_numbers_of_libvirts() {
    require!(qemu());
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    let error = client.call::<DomainLookupByName>(&"x".into()).unwrap_err();
    let text = "Domain not found: no domain with matching name 'x'";
    assert_eq!(parts(&error), (42, 10, text));
    assert_eq!(error.strings[0].as_deref(), Some("Domain not found: %1$s"));

    let g1 = client.call::<DomainDefineXml>(&guest_xml("g1", 1)).unwrap();
    assert_eq!(g1.id, -1);
    let error = client.call::<DomainDestroy>(&g1).unwrap_err();
    let text = "Requested operation is not valid: domain is not running";
    assert_eq!(parts(&error), (55, 20, text));

    let error = client
        .call::<DomainDefineXml>(&guest_xml("g1", 2))
        .unwrap_err();
    let text = format!(
        "operation failed: domain 'g1' already exists with uuid {}",
        g1.uuid
    );
    assert_eq!(parts(&error), (9, 20, &*text));
    let error = client
        .call::<DomainDefineXml>(&guest_xml("other", 1))
        .unwrap_err();
    assert_eq!((error.code.number(), error.domain.number()), (9, 20));

    let error = client
        .call::<DomainDefineXml>(&"127.0.0.1".into())
        .unwrap_err();
    assert_eq!((error.code.number(), error.domain.number()), (35, 20));
    assert!(error.message().starts_with("at line 1: "), "{error}");

    let mut unknown = g1.clone();
    unknown.uuid.0[15] = 0x77;
    let flags = 0;
    let args = DomainFlagsArgs {
        domain: unknown,
        flags,
    };
    let error = client.call::<DomainGetState>(&args).unwrap_err();
    assert!(error.message().ends_with("-000000000077' (g1)"), "{error}");
    let args = DomainFlagsArgs {
        domain: g1,
        flags: 0x20_0000,
    };
    let error = client.call::<DomainGetState>(&args).unwrap_err();
    let text = "unsupported flags (0x200000) in function qemuDomainGetState";
    assert_eq!(parts(&error), (8, 10, text));
    assert_eq!(error.strings[0].as_deref(), Some("qemuDomainGetState"));

    // A name that is quoted in an error does not make that too long to be sent.
    let error = client
        .call::<DomainLookupByName>(&"x".repeat(4 << 20))
        .unwrap_err();
    assert_eq!(error.code.number(), 42);
}

#[test]
fn a_guest_that_does_not_start_leaves_nothing() {
    require!(qemu());
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    let kernel = "<kernel>/nonexistent</kernel></os>";
    let xml = guest_xml("g1", 1).replace("</os>", kernel);
    let args = XmlFlagsArgs { xml, flags: 0 };
    let error = client.call::<DomainCreateXml>(&args).unwrap_err();
    assert_eq!((error.code.number(), error.domain.number()), (1, 10));
    let said = error.message();
    assert!(
        said.contains("unexpectedly closed the monitor (vm='g1')"),
        "{said}"
    );
    assert!(said.contains("/nonexistent"), "{said}");
    assert!(daemon.qemus().is_empty());
    assert!(client.call::<DomainLookupByName>(&"g1".into()).is_err());
}

#[test]
fn who_may_only_look_changes_nothing() {
    let daemon = Daemon::start("");
    for (path, flags) in [(daemon.read_only_socket(), 0), (daemon.socket(), 1)] {
        let mut client = Client::connect(&path);
        client.call::<Open>(&open_args(flags)).unwrap();
        let error = client
            .call::<DomainDefineXml>(&guest_xml("g1", 1))
            .unwrap_err();
        let text = "operation forbidden: read only access prevents virDomainDefineXML";
        assert_eq!(parts(&error), (29, 20, text));
        let error = client.call::<DomainLookupByName>(&"g1".into()).unwrap_err();
        assert_eq!(error.code.number(), 42);
    }
}

#[test]
fn a_guest_may_be_bound_to_a_connection() {
    require!(qemu());
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    let args = XmlFlagsArgs {
        xml: guest_xml("g1", 1),
        flags: 2,
    };
    client.call::<DomainCreateXml>(&args).unwrap();
    assert_eq!(daemon.qemus().len(), 1);
    drop(client);
    daemon.wait_log("guest ended");
    let mut other = Client::open(&daemon);
    assert!(other.call::<DomainLookupByName>(&"g1".into()).is_err());
}
