//! What clients may send that is no call: each answered, dropped or the end of the connection, and
//! never of anything else.

mod support;

use pagelift_rpc::calls::{
    AuthList, Hostname, Open, OpenArgs, Procedure, SupportsFeature, feature,
};
use pagelift_rpc::error::Error;
use pagelift_rpc::message::{
    Header, KEEPALIVE_PROGRAM, Kind, MAX_MESSAGE_BYTES, Message, PING, PONG, PROGRAM_VERSION,
    REMOTE_PROGRAM, Status,
};
use pagelift_rpc::xdr::Xdr;
use support::{Client, Daemon, open_args, parts, result};

fn header(procedure: i32) -> Header {
    Header {
        program: REMOTE_PROGRAM,
        version: PROGRAM_VERSION,
        procedure,
        kind: Kind::Call,
        serial: 77,
        status: Status::Ok,
    }
}

fn message(header: Header, body: &[u8]) -> Message {
    let body = body.to_vec();
    Message { header, body }
}

/// The error that a message is answered with.
fn refused(client: &mut Client, message: &Message) -> Error {
    client.send_message(message);
    let reply = client.reply().expect("an answer");
    assert_eq!(reply.header.status, Status::Error, "{reply:?}");
    assert_eq!(reply.header.serial, message.header.serial);
    assert_eq!(reply.header.procedure, message.header.procedure);
    reply.decode().unwrap()
}

/// The connection can still be used.
fn stays(client: &mut Client) {
    client.call::<AuthList>(&()).unwrap();
}

#[test]
fn unknown_procedures() {
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    for number in [9999, 0, -1] {
        let error = refused(&mut client, &message(header(number), b""));
        let detail = format!("unknown procedure: {number}");
        assert_eq!(parts(&error), (39, 7, &*detail));
        assert_eq!(error.strings[0].as_deref(), Some("%s"));
        assert_eq!(error.strings[1].as_deref(), Some(&*detail));
        assert_eq!(error.numbers, [-1, -1]);
        stays(&mut client);
    }
}

#[test]
fn unknown_programs_and_versions() {
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    for (program, version) in [(1, 1), (REMOTE_PROGRAM, 2), (0x2000_8087, 1)] {
        let asked = Header {
            program,
            version,
            ..header(66)
        };
        client.send_message(&message(asked, b""));
        let reply = client.reply().unwrap();
        assert_eq!(
            (reply.header.program, reply.header.version),
            (program, version)
        );
        let error: Error = reply.decode().unwrap();
        let text = format!("Cannot find program {program} version {version}");
        assert_eq!(parts(&error), (39, 7, &*text));
        stays(&mut client);
    }
}

#[test]
fn a_call_with_a_status() {
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    for status in [Status::Error, Status::Continue] {
        let call = message(
            Header {
                status,
                ..header(66)
            },
            b"",
        );
        let text = format!("Unexpected message status {}", status.number());
        assert_eq!(parts(&refused(&mut client, &call)), (39, 7, &*text));
        stays(&mut client);
    }
}

#[test]
fn what_is_no_call_is_dropped() {
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    for kind in [
        Kind::Reply,
        Kind::Message,
        Kind::Stream,
        Kind::StreamHole,
        Kind::Other(77),
    ] {
        client.send_message(&message(Header { kind, ..header(66) }, b"abcd"));
        stays(&mut client);
    }
    let ninth = Header {
        program: KEEPALIVE_PROGRAM,
        kind: Kind::Message,
        serial: 0,
        ..header(9)
    };
    client.send_message(&message(ninth, b""));
    stays(&mut client);
    assert!(client.events.is_empty(), "{:?}", client.events);
}

#[test]
fn a_call_with_no_descriptors_is_a_call() {
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    let kind = Kind::CallWithFds;
    let asked = Header {
        kind,
        ..header(SupportsFeature::NUMBER)
    };
    client.send_message(&message(asked, b"\0\0\0\0\0\0\0\x0a"));
    assert_eq!(result::<SupportsFeature>(&client.reply().unwrap()), Ok(1));
    let error = refused(&mut client, &message(asked, b"\0\0\0\x01\0\0\0\x0a"));
    assert_eq!(error.code.number(), 39);
}

#[test]
fn wrong_lengths_end_the_connection() {
    let daemon = Daemon::start("");
    let longest = u32::try_from(MAX_MESSAGE_BYTES).unwrap();
    for length in [0, 4, 27, longest + 1, u32::MAX] {
        let mut client = Client::open(&daemon);
        client.send(&length.to_be_bytes());
        assert_eq!(client.receive(), None, "{length}");
    }
    // The longest is waited for.
    let mut client = Client::open(&daemon);
    client.send(&longest.to_be_bytes());
    let mut rest = Vec::new();
    header(9999).put(&mut rest);
    client.send(&rest);
    client.send(&vec![0; MAX_MESSAGE_BYTES - 4 - rest.len()]);
    let error: Error = client.reply().unwrap().decode().unwrap();
    assert_eq!(error.code.number(), 39);
    stays(&mut client);
}

#[test]
fn arguments_that_are_none() {
    let daemon = Daemon::start("");
    let mut client = Client::connect(&daemon.socket());
    let too_long = (4_u32 << 20) + 1;
    let mut long = 1_u32.to_be_bytes().to_vec();
    too_long.put(&mut long);
    long.resize(long.len() + too_long as usize + 7, b'x');
    for body in [
        &b""[..],
        b"\0\0\0\x01\0\0\0\x0eqemu",
        b"\0\0\0\x02\0\0\0\0\0\0\0\0",
        b"\0\0\0\x01\xff\xff\xff\xff\0\0\0\0",
        &long,
    ] {
        let error = refused(&mut client, &message(header(Open::NUMBER), body));
        assert_eq!(parts(&error), (39, 7, "Unable to decode message payload"));
        stays(&mut client);
    }
    // What follows the arguments is not looked at.
    let mut body = Vec::new();
    open_args(0).put(&mut body);
    body.extend_from_slice(b"and more");
    client.send_message(&message(header(Open::NUMBER), &body));
    assert_eq!(result::<Open>(&client.reply().unwrap()), Ok(()));
}

#[test]
fn opening() {
    let daemon = Daemon::start("");
    let mut client = Client::connect(&daemon.socket());
    let not_open = "internal error: hypervisor connection not open";
    assert_eq!(client.call::<SupportsFeature>(&feature::KEEPALIVE), Ok(1));
    let error = client
        .call::<SupportsFeature>(&feature::MIGRATION_PARAMS)
        .unwrap_err();
    assert_eq!(parts(&error), (1, 7, not_open));
    let error = client.call::<Hostname>(&()).unwrap_err();
    assert_eq!(parts(&error), (1, 7, not_open));
    assert_eq!(error.strings[0].as_deref(), Some("internal error: %1$s"));

    let named = |name: Option<&str>| OpenArgs {
        name: name.map(str::to_owned),
        flags: 0,
    };
    let error = client.call::<Open>(&named(None)).unwrap_err();
    assert_eq!(parts(&error), (1, 7, "internal error: connection not open"));
    let error = client.call::<Open>(&named(Some("foo:///xx"))).unwrap_err();
    let text = "no connection driver available for foo:///xx";
    assert_eq!(parts(&error), (5, 0, text));
    // Bits that mean something only inside a client.
    assert_eq!(client.call::<Open>(&open_args(0xff)), Ok(()));
    let error = client.call::<Open>(&open_args(0)).unwrap_err();
    assert_eq!(
        parts(&error),
        (1, 7, "internal error: connection already open")
    );
    assert!(client.call::<Hostname>(&()).is_ok());
    for number in [0, 17, 999, -1] {
        assert_eq!(client.call::<SupportsFeature>(&number), Ok(0), "{number}");
    }
}

#[test]
fn a_message_may_come_byte_by_byte_and_many_at_once() {
    let daemon = Daemon::start("");
    let mut client = Client::open(&daemon);
    for byte in Message::call::<AuthList>(5, &()).encode().unwrap() {
        client.send(&[byte]);
    }
    assert_eq!(client.reply().unwrap().header.serial, 5);

    let mut bytes = Vec::new();
    for serial in 100..140 {
        bytes.extend(Message::call::<Hostname>(serial, &()).encode().unwrap());
    }
    client.send(&bytes);
    let mut serials: Vec<u32> = (0..40)
        .map(|_| client.reply().unwrap().header.serial)
        .collect();
    serials.sort_unstable();
    assert!(serials.into_iter().eq(100..140));
}

#[test]
fn a_ping_is_answered() {
    let daemon = Daemon::start("");
    let mut client = Client::connect(&daemon.socket());
    client.send_message(&Message::keepalive(PING));
    assert_eq!(client.receive(), Some(Message::keepalive(PONG)));
}

#[test]
fn garbage_harms_nobody_else() {
    let daemon = Daemon::start("");
    let mut other = Client::open(&daemon);
    for length in [1, 27, 28, 100, 5000] {
        let mut client = Client::connect(&daemon.socket());
        let garbage: Vec<u8> = (0..length).map(|at: u32| (at * 151 + 13) as u8).collect();
        client.send(&garbage);
        client.finish_sending();
        assert_eq!(client.receive(), None);
    }
    stays(&mut other);
}
