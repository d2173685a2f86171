use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pagelift_engine::transport::{Connection, Link, Listener, Role};

use super::*;
use crate::socket::{Owner, SocketAddress, SocketLink, SocketServer};

/// Both ends of a connection by a token, over a unix socket.
fn pair() -> (Connection, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let address = SocketAddress::Unix(folder.path().join("socket"));
    let token = Token::generate().unwrap();
    let server = SocketServer::bind(address.clone(), Owner::Anybody).unwrap();
    let listener = TlsListener::by_token(server, &token).unwrap();
    let link = TlsLink::by_token(SocketLink::new(address, Owner::Anybody), &token).unwrap();
    let connecting = thread::spawn(move || {
        let patience = Duration::from_secs(60);
        let connection = link.established(Role::Control, patience).unwrap();
        assert!(
            connection.rx.deadline.is_none(),
            "it is for establishing alone"
        );
        Connection::from(connection)
    });
    let mut far = listener.accept(Duration::from_secs(60)).unwrap().unwrap();
    // Who reads establishes; the source's first word ends that.
    let near = thread::scope(|scope| {
        let reading = scope.spawn(|| read_exact(&mut far.rx, &mut [0; 5]));
        let mut near = connecting.join().unwrap();
        near.tx.send(Bytes::from_static(b"hello")).unwrap();
        reading.join().unwrap();
        near
    });
    (near, far)
}

fn read_exact(rx: &mut (dyn Read + Send), out: &mut [u8]) {
    let mut filled = 0;
    while filled < out.len() {
        match rx.read(&mut out[filled..]) {
            Ok(count) if count > 0 => filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => panic!("{other:?}"),
        }
    }
}

/// In tests a key is good for so few records that these bytes take dozens of updates.
#[test]
fn keys_are_updated_before_their_limit_and_nothing_is_lost() {
    let (mut near, mut far) = pair();
    let lengths = [1, 24, 16 << 10, (16 << 10) + 1, 512 << 10, 700_001, 3];
    let pattern = |length: usize| -> Bytes { (0..length).map(|at| (at % 251) as u8).collect() };
    thread::scope(|scope| {
        let Connection { tx, rx, .. } = &mut far;
        scope.spawn(move || {
            for length in lengths {
                let mut got = vec![0; length];
                // In pieces that fit no record.
                for piece in got.chunks_mut(70_000) {
                    read_exact(rx, piece);
                }
                assert!(got == pattern(length));
                tx.send(pattern(length.min(40_000))).unwrap();
            }
        });
        for length in lengths {
            near.tx.send(pattern(length)).unwrap();
            let mut got = vec![0; length.min(40_000)];
            read_exact(&mut near.rx, &mut got);
            assert!(got == pattern(length.min(40_000)));
        }
    });
}

/// A link below that somebody has to log in to, and when that was done.
struct Slow(SocketLink, Arc<OnceLock<Instant>>);

impl Link for Slow {
    fn connect(&self, role: Role) -> io::Result<Connection> {
        let connection = self.0.connect(role)?;
        thread::sleep(Duration::from_millis(20));
        self.1.set(Instant::now()).unwrap();
        Ok(connection)
    }
}

#[test]
fn the_time_to_authenticate_begins_when_the_link_below_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let address = SocketAddress::Unix(folder.path().join("socket"));
    let _server = SocketServer::bind(address.clone(), Owner::Anybody).unwrap();
    let connected = Arc::new(OnceLock::new());
    let below = SocketLink::new(address, Owner::Anybody);
    let slow = Slow(below, Arc::clone(&connected));
    let link = TlsLink::by_token(slow, &Token::generate().unwrap()).unwrap();
    let patience = Duration::from_secs(10);
    let (_wrapped, deadline) = link.begun(Role::Control, patience).unwrap();
    assert!(deadline >= *connected.get().unwrap() + patience);
}
