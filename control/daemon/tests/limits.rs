//! What clients may cost, and for how long.

mod support;

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use pagelift_rpc::calls::{AuthList, SupportsFeature, feature};
use pagelift_rpc::message::{HEADER_BYTES, Message, PING, PONG};
use pagelift_tests::PATIENCE;
use support::{Client, Daemon};

/// Memory of a process in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

/// Connects until the daemon lets somebody in.
fn client_when_there_is_room(daemon: &Daemon) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = Client::connect(&daemon.socket());
        let asked = Message::call::<AuthList>(0, &()).encode().unwrap();
        if client.try_send(&asked) && client.receive().is_some() {
            return client;
        }
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn clients_beyond_the_limit_are_turned_away() {
    let daemon = Daemon::start("[limits]\nclients = 3\nunopened_clients = 3");
    let open: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = client_when_there_is_room(&daemon);
            client.call::<AuthList>(&()).unwrap();
            client
        })
        .collect();
    let mut fourth = Client::connect(&daemon.socket());
    assert_eq!(fourth.receive(), None);
    drop(open);
    client_when_there_is_room(&daemon);
}

#[test]
fn clients_that_open_nothing_do_not_keep_others_out() {
    let daemon = Daemon::start("[limits]\nunopened_clients = 2\nopen_seconds = 4");
    let mut opened = Client::open(&daemon);
    let idle: Vec<UnixStream> = (0..2)
        .map(|_| UnixStream::connect(daemon.socket()).unwrap())
        .collect();
    // They are sent away when their time is up.
    let mut late = client_when_there_is_room(&daemon);
    late.call::<AuthList>(&()).unwrap();
    daemon.wait_log("no driver was opened in time");
    drop(idle);
    opened.call::<AuthList>(&()).unwrap();
}

#[test]
fn a_promised_message_costs_nothing_before_it_comes() {
    let daemon = Daemon::start("");
    let before = resident_kib(daemon.pid());
    let mut clients: Vec<Client> = (0..10).map(|_| Client::open(&daemon)).collect();
    for client in &mut clients {
        client.send(&(32_u32 << 20).to_be_bytes());
        client.send(&[0; 100]);
    }
    clients
        .iter_mut()
        .for_each(|client| client.finish_sending());
    clients
        .iter_mut()
        .for_each(|client| assert_eq!(client.receive(), None));
    let after = resident_kib(daemon.pid());
    assert!(
        after < before + (16 << 10),
        "{before} KiB, then {after} KiB"
    );
}

#[test]
fn clients_together_hold_no_more_than_the_limit() {
    let daemon = Daemon::start("[limits]\nmemory_bytes = 4194304");
    let mut clients: Vec<Client> = (0..3).map(|_| Client::open(&daemon)).collect();
    // Two of them could be held, three could not: one at least is sent away.
    for client in &mut clients {
        client.send(&(16_u32 << 20).to_be_bytes());
    }
    let part = vec![0; 2 << 20];
    // Whether it is taken does not matter: the connection may have ended by then.
    for client in &mut clients {
        client.try_send(&part);
    }
    daemon.wait_log("clients hold too much memory");
    drop(clients);
    let mut other = Client::open(&daemon);
    other.call::<AuthList>(&()).unwrap();
}

#[test]
fn messages_have_the_limit_that_is_set() {
    let daemon = Daemon::start("[limits]\nmessage_bytes = 65536");
    let mut client = Client::open(&daemon);
    let mut longest = Message::call::<AuthList>(9, &());
    longest.body = vec![0; 65536 - HEADER_BYTES];
    client.send_message(&longest);
    assert_eq!(client.reply().unwrap().header.serial, 9);
    client.send(&65537_u32.to_be_bytes());
    assert_eq!(client.receive(), None);
}

#[test]
fn a_client_that_does_not_answer_is_dropped() {
    let daemon = Daemon::start("[keepalive]\ninterval_seconds = 1\ncount = 4");
    let mut answering = Client::open(&daemon);
    let mut silent = Client::open(&daemon);
    let mut never_asked = Client::open(&daemon);
    for client in [&mut answering, &mut silent] {
        client.call::<SupportsFeature>(&feature::KEEPALIVE).unwrap();
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                assert_eq!(answering.receive(), Some(Message::keepalive(PING)));
                answering.send_message(&Message::keepalive(PONG));
            }
        });
        for _ in 0..4 {
            assert_eq!(silent.receive(), Some(Message::keepalive(PING)));
        }
        assert_eq!(silent.receive(), None);
        is_over.store(true, Ordering::Release);
        answers.join().unwrap();
    });
    answering.call::<AuthList>(&()).unwrap();
    never_asked.call::<AuthList>(&()).unwrap();
    assert!(never_asked.events.is_empty());
}

#[test]
fn a_client_that_reads_nothing_is_dropped() {
    let daemon = Daemon::start("");
    let mut deaf = Client::open(&daemon);
    let many = Message::call::<AuthList>(0, &())
        .encode()
        .unwrap()
        .repeat(1000);
    // What the kernel keeps of it, and then 2 MiB of answers that are not taken.
    let sent = (0..10_000).take_while(|_| deaf.try_send(&many)).count();
    assert!(sent < 10_000);
    let mut other = Client::open(&daemon);
    other.call::<AuthList>(&()).unwrap();
}
