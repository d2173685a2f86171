//! Order, rate, delay and faults of a simulated connection.

use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use bytes::Bytes;
use pagelift_engine::pipeline::Clock;
use pagelift_engine::transport::{Connection, Link, Listener, RateCapped, Role};
use pagelift_engine::units::{Instant, Rate};

use super::{Direction, NetworkConfig, SimClock, SimNetwork, SimRng};

/// 1 MB/s, 10 ms, pieces of 100 bytes.
fn connected() -> (SimClock, SimNetwork, Connection, Connection) {
    let clock = SimClock::default();
    let config = NetworkConfig {
        rate: Rate(1_000_000),
        latency: Duration::from_millis(10),
        jitter: Duration::from_millis(3),
        buffer_bytes: 1000,
        piece_bytes: 100,
        one_sided: false,
    };
    let network = SimNetwork::new(config, clock.clone(), SimRng::new(1));
    let near = network.link().connect(Role::Control).unwrap();
    assert!(network.listener().accept(Duration::ZERO).unwrap().is_none());
    clock.advance(Duration::from_millis(20));
    let far = network.listener().accept(Duration::ZERO).unwrap().unwrap();
    (clock, network, near, far)
}

fn bytes(count: u16) -> Vec<u8> {
    (0..count).flat_map(u16::to_le_bytes).collect()
}

fn send(connection: &mut Connection, bytes: &[u8]) -> io::Result<()> {
    connection.tx.send(Bytes::copy_from_slice(bytes))
}

/// Reads what there is, until the end, an error or nothing for now.
fn read_on(connection: &mut Connection, into: &mut Vec<u8>) -> ErrorKind {
    let mut buffer = [0; 64];
    loop {
        match connection.rx.read(&mut buffer) {
            Ok(0) => return ErrorKind::UnexpectedEof,
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(error) => return error.kind(),
        }
    }
}

#[test]
fn bytes_arrive_in_order_at_the_rate_of_the_link() {
    let (clock, network, mut near, mut far) = connected();
    let began = clock.now();
    send(&mut near, &bytes(5000)).unwrap();
    assert!(!network.has_room(0, Direction::ToTarget));
    let mut read = Vec::new();
    while let Some(next) = network.next_event() {
        clock.advance_to(next);
        assert_eq!(read_on(&mut far, &mut read), ErrorKind::WouldBlock);
    }
    assert_eq!(read, bytes(5000));
    assert!(network.has_room(0, Direction::ToTarget));
    let took = clock.now().since(began).as_millis();
    assert!(
        (20..=28).contains(&took),
        "10 ms of rate, 10 to 15 of latency: {took}"
    );
}

#[test]
fn a_cap_holds_for_what_is_written_under_it() {
    let (clock, network, mut near, mut far) = connected();
    let mut took = |cap| {
        network.link().set_rate(cap);
        let began = clock.now();
        send(&mut near, &bytes(5000)).unwrap();
        let mut read = Vec::new();
        while read.len() < 10_000 {
            clock.advance_to(network.next_event().unwrap());
            assert_eq!(read_on(&mut far, &mut read), ErrorKind::WouldBlock);
        }
        clock.now().since(began).as_millis()
    };
    let (capped, lifted) = (took(Some(Rate(100_000))), took(None));
    assert!((110..=120).contains(&capped), "{capped}");
    assert!((20..=28).contains(&lifted), "{lifted}");
}

#[test]
fn what_is_held_arrives_later_and_nothing_is_lost() {
    let (clock, network, mut near, mut far) = connected();
    send(&mut near, b"before").unwrap();
    let until = clock.now().after(Duration::from_secs(1));
    network.hold(0, until);
    send(&mut near, b", after").unwrap();
    assert_eq!(network.next_event(), Some(until));
    clock.advance_to(until);
    let mut read = Vec::new();
    assert_eq!(read_on(&mut far, &mut read), ErrorKind::WouldBlock);
    assert_eq!(read, b"before, after");
    network.hold(0, Instant(u64::MAX));
    send(&mut far, b"never").unwrap();
    assert_eq!(network.next_event(), None);
}

#[test]
fn a_reset_fails_both_ends_and_a_close_ends_the_stream() {
    let (clock, network, mut near, mut far) = connected();
    send(&mut near, b"last words").unwrap();
    near.closer.close();
    assert_eq!(
        send(&mut near, b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    assert!(
        send(&mut far, b"lost").is_ok(),
        "it has not heard of the close yet"
    );
    clock.advance(Duration::from_secs(1));
    let mut read = Vec::new();
    assert_eq!(read_on(&mut far, &mut read), ErrorKind::UnexpectedEof);
    assert_eq!(read, b"last words");
    assert_eq!(
        send(&mut far, b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );

    let (_, network_two, mut near, mut far) = connected();
    assert_eq!(network.open(), Vec::<usize>::new());
    assert_eq!(network_two.open(), [0]);
    send(&mut near, b"lost").unwrap();
    network_two.reset(0);
    assert_eq!(read_on(&mut far, &mut read), ErrorKind::ConnectionReset);
    assert_eq!(
        send(&mut near, b"x").unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn one_bit_flips_once_whether_under_way_or_still_to_come() {
    for written_first in [true, false] {
        let (clock, network, mut near, mut far) = connected();
        if !written_first {
            network.corrupt(0, Direction::ToTarget);
        }
        send(&mut near, &bytes(500)).unwrap();
        if written_first {
            network.corrupt(0, Direction::ToTarget);
        }
        clock.advance(Duration::from_secs(1));
        let mut read = Vec::new();
        read_on(&mut far, &mut read);
        let flipped: u32 = read
            .iter()
            .zip(bytes(500))
            .map(|(got, sent)| (got ^ sent).count_ones())
            .sum();
        assert_eq!((read.len(), flipped), (1000, 1));
    }
}

#[test]
fn connections_are_refused_for_a_while() {
    let (clock, network, ..) = connected();
    network.refuse_until(clock.now().after(Duration::from_secs(1)));
    let error = network.link().connect(Role::Control).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    clock.advance(Duration::from_secs(1));
    assert!(network.link().connect(Role::Control).is_ok());
}
