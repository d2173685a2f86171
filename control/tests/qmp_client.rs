//! The QMP client against a real QEMU, and against what is none.

#![cfg(target_os = "linux")]

mod host;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use host::{LIMIT, TestQemu, has_qemu};
use pagelift_control::qmp::{Address, Events, MAX_EVENTS, Qmp, QmpError};
use serde_json::{Value, json};

/// Long enough to be sure, short enough to wait for.
const SHORT: Duration = Duration::from_millis(200);

#[test]
fn commands_events_and_refusals() {
    if !has_qemu() {
        return;
    }
    let qemu = TestQemu::start(&[]);
    let qmp = Qmp::connect(&qemu.address()).unwrap();
    assert_eq!(qmp.peer_pid().unwrap(), qemu.pid());
    let (mut first, mut second) = (qmp.events(), qmp.events());
    let waiter = std::thread::spawn(move || {
        first
            .wait("STOP", LIMIT, |event| {
                (event.name == "STOP").then_some(event.at)
            })
            .unwrap()
    });
    qmp.execute("stop", Value::Null).unwrap();
    qmp.execute("cont", Value::Null).unwrap();
    let stopped = waiter.join().unwrap().unwrap();
    // Another reader sees the same events, in their order.
    let resumed = second
        .wait("RESUME", LIMIT, |event| {
            (event.name == "RESUME").then_some(event.at)
        })
        .unwrap();
    assert!(resumed.unwrap().micros_since(stopped) >= 0);
    let timeout = second.wait("nothing", SHORT, |_| None::<()>).unwrap_err();
    assert!(
        timeout.to_string().contains("nothing did not come"),
        "{timeout}"
    );

    let unknown = qmp.execute("no-such-command", Value::Null).unwrap_err();
    assert!(
        matches!(&unknown, QmpError::Refused { class, .. } if class == "CommandNotFound"),
        "{unknown}"
    );
    assert!(!unknown.is_lost());
    qmp.execute("query-status", Value::Null).unwrap();
}

#[test]
fn descriptors_reach_qemu() {
    if !has_qemu() {
        return;
    }
    let qemu = TestQemu::start(&[]);
    let qmp = Qmp::connect(&qemu.address()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    qmp.getfd("x", theirs.as_fd()).unwrap();
    drop(theirs);
    qmp.execute("closefd", json!({ "fdname": "x" })).unwrap();
    assert_eq!(
        std::io::Read::read(&mut &ours, &mut [0]).unwrap(),
        0,
        "QEMU had the only copy"
    );
    assert!(
        qmp.execute("closefd", json!({ "fdname": "x" }))
            .unwrap_err()
            .refusal()
            .is_some()
    );
}

#[test]
fn second_client_is_told_why_it_waits() {
    if !has_qemu() {
        return;
    }
    let qemu = TestQemu::start(&[]);
    let _holder = Qmp::connect(&qemu.address()).unwrap();
    // Some wait in the queue, and then the queue is full.
    for _ in 0..4 {
        let error = Qmp::connect_within(&qemu.address(), SHORT).unwrap_err();
        assert!(matches!(error, QmpError::NoGreeting { .. }), "{error}");
        assert!(error.to_string().contains("give QEMU a second -qmp"));
    }
}

/// Whoever asks or waits hears that the connection is lost.
fn assert_lost(qmp: &Qmp, events: &mut Events) {
    let waited = events.wait("anything", LIMIT, |_| None::<()>);
    assert!(waited.unwrap_err().is_lost());
    let asked = qmp.execute("query-status", Value::Null);
    assert!(asked.unwrap_err().is_lost());
}

#[test]
fn exit_of_qemu_is_noticed() {
    if !has_qemu() {
        return;
    }
    let mut qemu = TestQemu::start(&[]);
    let qmp = Qmp::connect(&qemu.address()).unwrap();
    let mut events = qmp.events();
    qemu.kill();
    assert_lost(&qmp, &mut events);
    let gone = Qmp::connect(&qemu.address()).unwrap_err();
    assert!(matches!(gone, QmpError::Connect { .. }), "{gone}");
}

/// A peer that greets, accepts `qmp_capabilities`, and answers the next command with `lines`.
fn impostor(lines: Vec<u8>) -> (tempfile::TempDir, Address) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        // The event was for the client before.
        (&stream)
            .write_all(b"{\"event\": \"STOP\"}\r\n{\"QMP\": {}}\r\n")
            .unwrap();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        (&stream)
            .write_all(b"{\"return\": {}, \"id\": 1}\r\n")
            .unwrap();
        reader.read_line(&mut line).unwrap();
        // The client may have seen enough and be gone.
        let _gone = (&stream).write_all(&lines);
        let _end = std::io::copy(&mut reader, &mut std::io::sink());
    });
    (folder, Address::Unix(path))
}

/// A monitor may be anybody's: what it says of a process is held against who made the socket.
#[test]
fn a_monitor_that_names_another_process_is_not_believed() {
    let lines = "{\"return\": [{\"cpu-index\": 0, \"thread-id\": 1}], \"id\": 2}\n";
    let (_folder, address) = impostor(lines.into());
    let error = Qmp::connect(&address).unwrap().peer_pid().unwrap_err();
    let own = std::process::id();
    let expected = format!("it is process 1, but the socket is that of process {own}");
    assert!(error.to_string().contains(&expected), "{error}");
}

#[test]
fn nonsense_ends_the_connection() {
    let endless = vec![b'x'; 17 << 20];
    for lines in [b"nonsense\n".to_vec(), b"[1]\n".to_vec(), endless] {
        let (_folder, address) = impostor(lines);
        let qmp = Qmp::connect_within(&address, LIMIT).unwrap();
        let mut events = qmp.events();
        let error = qmp.execute("query-status", Value::Null).unwrap_err();
        assert!(matches!(error, QmpError::Malformed { .. }), "{error}");
        assert_lost(&qmp, &mut events);
    }
}

#[test]
fn slow_reader_learns_that_events_were_lost() {
    let mut lines = Vec::new();
    for number in 0..MAX_EVENTS + 10 {
        lines.extend(format!("{{\"event\": \"E{number}\"}}\n").into_bytes());
    }
    lines.extend(b"{\"event\": \"LAST\"}\n");
    let (_folder, address) = impostor(lines);
    let qmp = Qmp::connect_within(&address, LIMIT).unwrap();
    let mut slow = qmp.events();
    let mut early = slow.clone();
    let unanswered = qmp.execute_within("query-status", Value::Null, SHORT);
    assert!(matches!(unanswered, Err(QmpError::Timeout { .. })));
    let last = |event: &pagelift_control::qmp::Event| (event.name == "LAST").then_some(());
    // Whether this one keeps up depends on the machine; it gets to the end.
    while let Err(error) = early.wait("LAST", LIMIT, last) {
        assert!(matches!(error, QmpError::EventsLost { .. }), "{error}");
    }
    let first = slow.wait("any", LIMIT, |event| Some(event.name.clone()));
    assert!(
        matches!(first, Err(QmpError::EventsLost { .. })),
        "{first:?}"
    );
    // From then on it sees all that is left.
    slow.wait("LAST", LIMIT, last).unwrap();
}

#[test]
fn answer_that_does_not_come() {
    let (_folder, address) = impostor(Vec::new());
    let qmp = Qmp::connect_within(&address, LIMIT).unwrap();
    let error = qmp
        .execute_within("query-status", Value::Null, SHORT)
        .unwrap_err();
    assert!(matches!(error, QmpError::Timeout { .. }), "{error}");
    assert!(!error.is_lost());
}

#[test]
fn tcp_carries_no_descriptors() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        (&stream).write_all(b"{\"QMP\": {}}\r\n").unwrap();
        reader.read_line(&mut String::new()).unwrap();
        (&stream)
            .write_all(b"{\"return\": {}, \"id\": 1}\r\n")
            .unwrap();
        let _end = std::io::copy(&mut reader, &mut std::io::sink());
    });
    let qmp = Qmp::connect_within(&address, LIMIT).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = qmp.getfd("x", ours.as_fd()).unwrap_err();
    assert!(matches!(error, QmpError::DescriptorOverTcp(_)), "{error}");
    drop(qmp);
    server.join().unwrap();
}
