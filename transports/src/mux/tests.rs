use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use pagelift_engine::transport::{Connection, Link, Listener, Role};
use pagelift_engine::units::ByteCount;

use super::frame::Frame;
use super::*;
use crate::byte_stream::ByteStream;
use crate::{Endpoint, Security, Token};

const LONG: Duration = Duration::from_secs(60);

fn bytes_of(socket: &UnixStream) -> ByteStream {
    ByteStream::of_descriptor(socket.as_raw_fd()).unwrap()
}

/// Both ends over a pair of sockets.
fn pair() -> (MuxLink, MuxListener) {
    let (near, far) = UnixStream::pair().unwrap();
    let link = MuxLink::over(bytes_of(&near)).unwrap();
    (link, MuxListener::over(bytes_of(&far)).unwrap())
}

fn connect(link: &MuxLink, listener: &MuxListener, role: Role) -> (Connection, Connection) {
    let near = link.connect(role).unwrap();
    (near, listener.accept(LONG).unwrap().unwrap())
}

/// Reads all of `out`, however long it takes to come.
fn read_exact(rx: &mut (dyn Read + Send), out: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < out.len() {
        match rx.read(&mut out[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at % 253) as u8).collect()
}

#[test]
fn control_goes_by_data_that_nobody_reads() {
    let (link, listener) = pair();
    let (mut control, mut control_there) = connect(&link, &listener, Role::Control);
    let (mut data, mut data_there) = connect(&link, &listener, Role::Data(0));
    let much = pattern(3 * WINDOW_BYTES);
    let sending = thread::spawn({
        let much = much.clone();
        move || {
            data.tx.send(much).unwrap();
            data
        }
    });
    // More than the window, so that credit has to come back as well.
    for round in 0..40 {
        let words = pattern(100_000 + round);
        control.tx.send(words.clone()).unwrap();
        let mut there = vec![0; words.len()];
        read_exact(&mut control_there.rx, &mut there).unwrap();
        assert!(there == words);
        control_there.tx.send(words.slice(..7)).unwrap();
        read_exact(&mut control.rx, &mut there[..7]).unwrap();
    }
    assert!(!sending.is_finished(), "it must not send beyond its window");
    let mut there = vec![0; much.len()];
    read_exact(&mut data_there.rx, &mut there).unwrap();
    assert!(there == much);
    let data = sending.join().unwrap();
    data.closer.close();
    assert_eq!(data_there.rx.read(&mut there).unwrap(), 0);
    control.tx.send(Bytes::from_static(b"still")).unwrap();
    read_exact(&mut control_there.rx, &mut there[..5]).unwrap();
}

#[test]
fn closing_wakes_whoever_waits() {
    let (link, listener) = pair();
    let (mut near, mut far) = connect(&link, &listener, Role::Data(0));
    let closer = near.closer.clone();
    let sending = thread::spawn(move || near.tx.send(pattern(2 * WINDOW_BYTES)));
    // Until all its credit is used up.
    let mut buffer = [0; 1];
    read_exact(&mut far.rx, &mut buffer).unwrap();
    closer.close();
    assert!(sending.join().unwrap().is_err());
    drop((link, listener));
    let mut rest = vec![0; 2 * WINDOW_BYTES];
    assert!(read_exact(&mut far.rx, &mut rest).is_err());
}

#[test]
fn the_end_of_the_byte_stream_is_the_end_of_all() {
    let (link, listener) = pair();
    let (mut control, _there) = connect(&link, &listener, Role::Control);
    drop(listener);
    let error = loop {
        match control.rx.read(&mut [0; 8]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => break other.unwrap_err(),
        }
    };
    assert!(error.to_string().contains("fd:"), "{error}");
    assert!(control.tx.send(Bytes::from_static(b"lost")).is_err());
    let error = link.connect(Role::Data(0)).unwrap_err().to_string();
    assert!(error.contains("closed"), "{error}");
}

/// The budget counts a connection with all that its stream may hold, through TLS and the rate's cap too.
#[test]
fn a_stream_counts_with_twice_its_window() {
    let most = ByteCount(2 * WINDOW_BYTES as u64);
    let (link, listener) = pair();
    assert_eq!(link.connection_bytes(), most);
    assert_eq!(listener.connection_bytes(), most);
    let (near, far) = UnixStream::pair().unwrap();
    let at = |socket: &UnixStream| Endpoint::Fd(socket.as_raw_fd());
    let token = Security::Token(Token::generate().unwrap());
    let link = at(&near).connect_with(&token).unwrap();
    assert_eq!(link.connection_bytes(), most);
    let listener = at(&far).listen_with(&token).unwrap();
    assert_eq!(listener.connection_bytes(), most);
}

/// What a target makes of bytes that no source of ours sends.
fn target_says(frames: &[(Frame, usize)]) -> String {
    let (near, far) = UnixStream::pair().unwrap();
    let listener = MuxListener::over(bytes_of(&far)).unwrap();
    let source = bytes_of(&near);
    source.write_all(&PREFACE, &[], None).unwrap();
    for &(frame, length) in frames {
        // It may have given up already.
        let _ = source.write_all(&frame.encode(), &pattern(length), None);
    }
    loop {
        match listener.accept(LONG) {
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}

#[test]
fn a_source_that_takes_more_than_it_may_is_given_up() {
    let open = (Frame::Open { stream: 0 }, 0);
    let slice = Frame::Data {
        stream: 0,
        length: SLICE_BYTES,
    };
    let mut flood = vec![open];
    flood.extend([(slice, SLICE_BYTES); WINDOW_BYTES / SLICE_BYTES + 1]);
    let credit = Frame::Credit {
        stream: 0,
        bytes: 1,
    };
    let crowd: Vec<_> = (0..=MAX_STREAMS as u16)
        .map(|stream| (Frame::Open { stream }, 0))
        .collect();
    for (frames, words) in [
        (&flood[..], "more than it may"),
        (&[open, (credit, 0)], "credit"),
        (&[open, open], "twice"),
        (&crowd, "too many"),
    ] {
        let said = target_says(frames);
        assert!(said.contains(words), "{said}");
    }
}
