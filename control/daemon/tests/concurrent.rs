//! Calls that take long keep nothing else from being answered.

mod support;

use std::process::Command;

use pagelift_rpc::calls::{
    DomainDestroy, DomainFlagsArgs, DomainGetState, DomainGetXmlDesc, DomainSuspend, Hostname,
    Procedure,
};
use pagelift_rpc::message::{Kind, Message, PING, PONG};
use pagelift_rpc::types::Domain;
use pagelift_tests::require;
use support::{Client, Daemon, guest_xml, qemu, result};

/// A guest whose QEMU stands still, so that it takes seconds to end it.
fn stuck(daemon: &Daemon) -> Domain {
    let guest = daemon.start_guest(&guest_xml("g1", 1));
    for pid in daemon.qemus() {
        let stopped = Command::new("kill")
            .args(["-STOP", &pid.to_string()])
            .status();
        assert!(stopped.unwrap().success());
    }
    guest
}

fn state_of(guest: &Domain) -> DomainFlagsArgs {
    DomainFlagsArgs {
        domain: guest.clone(),
        flags: 0,
    }
}

#[test]
fn questions_and_pings_are_answered_while_a_call_runs() {
    require!(qemu());
    let daemon = Daemon::start("");
    let guest = stuck(&daemon);
    let mut client = Client::open(&daemon);
    client.send_message(&Message::call::<DomainDestroy>(50, &guest));
    // On the same connection, although the first call has not been answered.
    client.send_message(&Message::call::<Hostname>(51, &()));
    assert_eq!(client.reply().unwrap().header.serial, 51);
    client.send_message(&Message::keepalive(PING));
    assert_eq!(client.receive(), Some(Message::keepalive(PONG)));
    // Also about the very guest, and on other connections.
    client.send_message(&Message::call::<DomainGetState>(52, &state_of(&guest)));
    assert_eq!(client.reply().unwrap().header.serial, 52);
    let mut other = Client::open(&daemon);
    other.call::<DomainGetXmlDesc>(&state_of(&guest)).unwrap();
    // It is ended all the same.
    let reply = client.reply().unwrap();
    assert_eq!(reply.header.serial, 50);
    assert_eq!(result::<DomainDestroy>(&reply), Ok(()));
    assert!(daemon.qemus().is_empty());
}

#[test]
fn a_client_may_have_more_calls_than_run() {
    require!(qemu());
    let daemon = Daemon::start("[limits]\nrunning_calls = 2\nwaiting_calls = 3");
    let guest = stuck(&daemon);
    let mut client = Client::open(&daemon);
    client.send_message(&Message::call::<DomainDestroy>(50, &guest));
    // One waits for the other, and the rest for both: nothing is read any more, nothing is lost.
    for serial in 60..70 {
        client.send_message(&Message::call::<DomainSuspend>(serial, &guest));
    }
    let mut other = Client::open(&daemon);
    other.call::<Hostname>(&()).unwrap();
    let mut answered = Vec::new();
    while answered.len() < 11 {
        let reply = client.receive().expect("an answer");
        if reply.header.kind == Kind::Reply {
            assert!(
                [DomainDestroy::NUMBER, DomainSuspend::NUMBER].contains(&reply.header.procedure)
            );
            answered.push(reply.header.serial);
        }
    }
    answered.sort_unstable();
    assert!(answered.into_iter().eq([50].into_iter().chain(60..70)));
}

#[test]
fn a_client_that_leaves_while_its_call_runs_costs_nothing() {
    require!(qemu());
    let daemon = Daemon::start("");
    let guest = stuck(&daemon);
    let mut client = Client::open(&daemon);
    client.send_message(&Message::call::<DomainDestroy>(50, &guest));
    client.send_message(&Message::call::<Hostname>(51, &()));
    assert_eq!(client.reply().unwrap().header.serial, 51);
    drop(client);
    daemon.wait_log("guest ended");
    let mut other = Client::open(&daemon);
    let state = other.call::<DomainGetState>(&state_of(&guest)).unwrap();
    assert_eq!((state.state, state.reason), (5, 2));
}
