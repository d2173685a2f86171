//! Frames and messages of our own formats.

use pagelift_agent_protocol as agent;
use pagelift_engine::codec::block::MAX_BLOCK_PAGES;
use pagelift_engine::transport::WriteHalf;
use pagelift_engine::wire::{
    Accept, Encoding, FrameReader, FrameType, FrameWriter, Hello, Join, MAX_BODY_BYTES,
    MAX_FRAME_PAGES, Message, PagesBody, ReadOutcome, Reference, Refuse,
};
use std::fmt::Debug;

/// Types of frames, to be chosen by a byte. New ones come last, not where `FrameType::ALL` has
/// them: the bytes of the corpus that is kept name them by their place here.
const KINDS: [FrameType; FrameType::ALL.len()] = [
    FrameType::Hello,
    FrameType::Accept,
    FrameType::Refuse,
    FrameType::Join,
    FrameType::Pages,
    FrameType::RoundEnd,
    FrameType::Ack,
    FrameType::LastRound,
    FrameType::Complete,
    FrameType::State,
    FrameType::Ready,
    FrameType::HandOver,
    FrameType::Running,
    FrameType::Reattach,
    FrameType::Abort,
    FrameType::Ping,
    FrameType::Pong,
    FrameType::Fingerprints,
    FrameType::Missing,
    FrameType::Settled,
    FrameType::Waited,
    FrameType::Marks,
    FrameType::MarkShows,
];

fn kind(byte: u8) -> FrameType {
    KINDS[usize::from(byte) % KINDS.len()]
}

/// The frames of a stream up to its end or first fault, and whether there was a fault.
fn frames(mut stream: &[u8]) -> (Vec<(FrameType, Vec<u8>)>, bool) {
    let mut reader = FrameReader::new(&mut stream);
    let mut frames = Vec::new();
    loop {
        match reader.read() {
            Ok(ReadOutcome::Frame(header)) => {
                assert!(header.length <= MAX_BODY_BYTES);
                assert_eq!(reader.body().len(), header.length);
                frames.push((header.kind, reader.body().to_vec()));
            }
            Ok(ReadOutcome::Pending) => unreachable!("a slice never makes one wait"),
            Err(error) => {
                let end = matches!(error, pagelift_engine::wire::FrameError::Closed);
                return (frames, !end);
            }
        }
    }
}

/// A stream as it is; then the same bytes as bodies of frames: where to damage the stream (two
/// bytes), what to add there, and for each frame its type, the length of its body and the body.
pub fn frame_reader(data: &[u8]) {
    frames(data);
    let [low, high, damage, rest @ ..] = data else {
        return;
    };
    let mut rest = rest;
    let mut expected = Vec::new();
    let mut stream = Vec::new();
    let mut writer = FrameWriter::new(WriteHalf::new(&mut stream));
    while let [byte, length, tail @ ..] = rest {
        let (body, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        writer.write(kind(*byte), body).expect("a vector");
        expected.push((kind(*byte), body.to_vec()));
    }
    if expected.is_empty() {
        return;
    }
    assert_eq!(frames(&stream), (expected.clone(), false));
    let at = usize::from(u16::from_le_bytes([*low, *high])) % stream.len();
    if *damage != 0 {
        stream[at] = stream[at].wrapping_add(*damage);
        let (found, fault) = frames(&stream);
        assert!(fault, "byte {at} is damaged and nobody noticed");
        assert!(expected.starts_with(&found));
    }
}

/// What is accepted is the same after being written and read again.
fn round_trip<T: Debug + PartialEq, E: Debug>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok(value) = decode(data) {
        let again = decode(&encode(&value)).expect("what was written must be read");
        assert_eq!(again, value);
    }
}

/// The body of each message of the handshake.
pub fn hello(data: &[u8]) {
    round_trip(data, Hello::decode, Hello::encode);
    round_trip(data, Accept::decode, Accept::encode);
    round_trip(data, Refuse::decode, Refuse::encode);
    round_trip(data, Join::decode, Join::encode);
    if let Ok(hello) = Hello::decode(data) {
        hello.common_version();
    }
}

/// A type, and the body of a message of it.
pub fn message(data: &[u8]) {
    if let [byte, body @ ..] = data {
        let kind = kind(*byte);
        round_trip(body, |body| Message::decode(kind, body), Message::encode);
    }
}

/// The body of a frame of pages.
pub fn pages_body(data: &[u8]) {
    let Ok(body) = PagesBody::decode(data) else {
        return;
    };
    let (mut pages, mut bytes, mut runs) = (0, 0, 0);
    // Pages of the block under way that are still to come.
    let mut left = 0;
    for run in body.runs() {
        let count = run.range.count.0;
        assert!(run.range.first.0.checked_add(count).is_some());
        pages += count;
        bytes += run.data.len();
        runs += 1;
        if run.encoding == Encoding::Reference {
            let reference = Reference::decode(run.data).expect("a run that was checked");
            assert_eq!(reference.encode(), run.data);
        }
        if run.encoding == Encoding::More {
            assert!(count <= left && run.data.is_empty());
            left -= count;
            continue;
        }
        assert_eq!(left, 0, "a block has all its pages");
        if run.encoding.is_block() {
            assert!((count..=MAX_BLOCK_PAGES as u64).contains(&run.block.0));
            assert!((1..=run.block.bytes().0).contains(&(run.data.len() as u64)));
            left = run.block.0 - count;
        }
    }
    assert_eq!(left, 0, "a block has all its pages");
    assert!((0..=MAX_FRAME_PAGES as u64).contains(&pages));
    assert_eq!(runs, usize::from(u16::from_le_bytes([data[4], data[5]])));
    assert!(bytes <= data.len());
}

/// A type (two bytes) and a payload, for the agent and for its client.
pub fn agent_message(data: &[u8]) {
    let [low, high, payload @ ..] = data else {
        return;
    };
    let kind = u16::from_le_bytes([*low, *high]);
    let payload_of = |message: Vec<u8>| message[agent::HEADER_BYTES..].to_vec();
    round_trip(
        payload,
        |payload| agent::Request::decode(kind, payload),
        |request| payload_of(request.encode()),
    );
    round_trip(
        payload,
        |payload| agent::Reply::decode(kind, payload),
        |reply| payload_of(reply.encode()),
    );
}
