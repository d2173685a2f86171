//! Whole moves, seen by somebody on the path.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pagelift_transports::{Security, Token};

use crate::authority;
use crate::forwarder::{Forwarder, Recorded, socket_address};
use crate::guest::{MARKER, STATE, Waiting, send};

fn contains(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|part| part == words)
}

/// Moves a guest past somebody who listens; what that one has.
fn captured(security: &Security) -> Vec<Recorded> {
    let target = Waiting::new(security);
    let forwarder = Forwarder::to(&target.address);
    send(&forwarder.address, security).unwrap();
    target.arrived();
    let recorded = forwarder.recorded();
    assert_eq!(recorded.len(), 4, "control and three channels");
    recorded
}

/// Whether `words` went by, in any direction.
fn seen(recorded: &[Recorded], words: &[u8]) -> bool {
    let both = |one: &Recorded| contains(&one.to_target, words) || contains(&one.to_source, words);
    recorded.iter().any(both)
}

#[test]
fn what_goes_by_in_clear_is_seen_and_under_tls_is_not() {
    let plain = captured(&Security::Insecure);
    assert!(seen(&plain, MARKER) && seen(&plain, STATE) && seen(&plain, b"pagelift"));

    let token = Token::generate().unwrap();
    let text = token.reveal();
    let (_authority, dir) = authority::good();
    for security in [
        Security::Token(token),
        Security::Certificates(authority::in_dir(&dir)),
    ] {
        let recorded = captured(&security);
        let carried: usize = recorded.iter().map(|one| one.to_target.len()).sum();
        assert!(carried > 512 * 4096, "the guest went by: {carried} bytes");
        for words in [MARKER, STATE, text.as_bytes(), &number(&text)] {
            assert!(!seen(&recorded, words), "{security:?}");
        }
    }
}

fn number(token: &str) -> [u8; 16] {
    u128::from_str_radix(token, 16).unwrap().to_be_bytes()
}

/// The recorded move is played to a target with the same token: it does not even get to say that it
/// is a migration.
#[test]
fn a_recorded_move_is_refused_and_the_next_one_arrives() {
    let security = Security::Token(Token::generate().unwrap());
    let recorded = captured(&security);
    let target = Waiting::new(&security);
    for connection in &recorded {
        let mut stream = TcpStream::connect(socket_address(&target.address)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // It may hang up in the middle.
        let _ = stream.write_all(&connection.to_target);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!contains(&answer, b"pagelift"));
    }
    send(&target.address, &security).unwrap();
    target.arrived();
}
