//! What clients hear of guests.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use pagelift_rpc::calls::{
    DomainDefineXml, DomainFlagsArgs, DomainGetState, EventDeregister, EventRegister,
    EventRegisterArgs,
};
use pagelift_rpc::events::Lifecycle;
use pagelift_tests::{PATIENCE, require};
use support::{Client, Daemon, guest_xml, parts, qemu, virsh};

#[test]
fn a_life_makes_the_events_of_libvirts() {
    require!(virsh());
    require!(qemu());
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    for event_id in [0, 20, 21] {
        let args = EventRegisterArgs {
            event_id,
            domain: None,
        };
        assert_eq!(
            client.call::<EventRegister>(&args),
            Ok(event_id.min(1) + event_id / 21)
        );
    }
    let file = daemon.file("g1.xml", &guest_xml("g1", 1));
    for command in [
        &["define", &file][..],
        &["start", "g1"],
        &["suspend", "g1"],
        &["resume", "g1"],
        &["destroy", "g1"],
        &["undefine", "g1"],
    ] {
        daemon.virsh_ok(command);
    }
    let expected = [
        (0, 0, -1),
        (4, 0, 1),
        (2, 0, 1),
        (3, 0, 1),
        (4, 0, 1),
        (6, 2, 1),
        (5, 1, -1),
        (1, 0, -1),
    ];
    for expected in expected {
        let message = client.receive().unwrap();
        assert_eq!((message.header.procedure, message.header.serial), (318, 0));
        let event: Lifecycle = message.decode().unwrap();
        assert_eq!(event.callback_id, 0);
        assert_eq!((event.event, event.detail, event.domain.id), expected);
    }
}

#[test]
fn a_guest_that_ends_by_itself() {
    require!(qemu());
    let images = require!(pagelift_tests::guest_images());
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    let args = EventRegisterArgs {
        event_id: 0,
        domain: None,
    };
    client.call::<EventRegister>(&args).unwrap();
    // A kernel without a root file system gives up, and resets the machine.
    let boot = format!(
        "<kernel>{}</kernel><cmdline>panic=-1</cmdline></os>",
        images.kernel.display()
    );
    let xml = guest_xml("g1", 1)
        .replace("</os>", &boot)
        .replace("32768", "131072")
        .replace("<on_crash>", "<on_reboot>destroy</on_reboot><on_crash>");
    let g1 = daemon.start_guest(&xml);
    let mut seen = client.events.split_off(0);
    while seen.len() < 5 {
        seen.push(client.receive().unwrap());
    }
    let seen: Vec<(i32, i32)> = seen
        .iter()
        .map(|message| message.decode().unwrap())
        .map(|event: Lifecycle| (event.event, event.detail))
        .collect();
    assert_eq!(seen, [(0, 0), (4, 0), (2, 0), (6, 1), (5, 0)]);
    let args = DomainFlagsArgs {
        domain: g1,
        flags: 0,
    };
    let state = client.call::<DomainGetState>(&args).unwrap();
    assert_eq!((state.state, state.reason), (5, 1));
}

/// A virsh that prints events, until it is dropped.
struct Listener {
    child: Child,
    lines: Receiver<String>,
}

impl Listener {
    fn start(daemon: &Daemon) -> Self {
        let uri = format!("qemu+unix:///system?socket={}", daemon.socket().display());
        let mut child = Command::new("virsh")
            .args(["-c", &uri, "event", "--all", "--loop"])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            // The test has seen enough when nobody takes them any more.
            lines.map(|line| sender.send(line)).find(Result::is_err)
        });
        Self { child, lines }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

#[test]
fn virsh_prints_the_events() {
    require!(virsh());
    require!(qemu());
    let daemon = Daemon::start("");
    let listener = Listener::start(&daemon);
    // It has registered, sooner or later; then a definition is heard of.
    let file = daemon.file("probe.xml", &guest_xml("probe", 9));
    let deadline = Instant::now() + PATIENCE;
    while listener.lines.try_recv().is_err() {
        assert!(Instant::now() < deadline, "virsh does not listen");
        daemon.virsh_ok(&["define", &file]);
        daemon.virsh_ok(&["undefine", "probe"]);
    }
    let file = daemon.file("g1.xml", &guest_xml("g1", 1));
    for command in [
        &["define", &file][..],
        &["start", "g1"],
        &["suspend", "g1"],
        &["destroy", "g1"],
        &["undefine", "g1"],
    ] {
        daemon.virsh_ok(command);
    }
    for expected in [
        "Defined Added",
        "Started Booted",
        "Suspended Paused",
        "Stopped Destroyed",
        "Undefined Removed",
    ] {
        let expected = format!("event 'lifecycle' for domain 'g1': {expected}");
        let next = || listener.lines.recv_timeout(PATIENCE).expect(&expected);
        while next() != expected {}
    }
}

#[test]
fn registrations_are_of_one_guest_and_end() {
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    let mut other = Client::open(&daemon);
    let define = |client: &mut Client, name, number| {
        let xml = guest_xml(name, number);
        client.call::<DomainDefineXml>(&xml).unwrap()
    };
    let a = define(&mut client, "a", 1);
    let args = EventRegisterArgs {
        event_id: 0,
        domain: Some(a),
    };
    let callback = client.call::<EventRegister>(&args).unwrap();
    // Numbers of callbacks are no other client's.
    let theirs = other.call::<EventRegister>(&args).unwrap();
    assert_ne!(callback, theirs);
    let error = client.call::<EventDeregister>(&theirs).unwrap_err();
    assert_eq!(error.code.number(), 8);
    define(&mut client, "b", 2);
    define(&mut client, "a", 1);
    client.call::<EventDeregister>(&callback).unwrap();
    define(&mut client, "a", 1);
    let seen: Vec<Lifecycle> = client.events.iter().map(|e| e.decode().unwrap()).collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!((seen[0].event, seen[0].detail), (0, 1));

    let args = EventRegisterArgs {
        event_id: 99,
        domain: None,
    };
    let error = client.call::<EventRegister>(&args).unwrap_err();
    assert_eq!(parts(&error).0, 1);
}
