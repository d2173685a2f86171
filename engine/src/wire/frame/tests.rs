//! Frames over streams that trickle, are cut, damaged, or something else.

use std::io::Read;

use proptest::prelude::*;

use super::*;
use crate::transport::WriteHalf;

/// A stream that gives its bytes in pieces of `step`, with `WouldBlock` between them.
struct Trickle {
    bytes: Vec<u8>,
    at: usize,
    step: usize,
    blocked: bool,
}

impl Read for Trickle {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.blocked = !self.blocked;
        if self.blocked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = self.step.min(out.len()).min(self.bytes.len() - self.at);
        out[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn two_frames() -> Vec<u8> {
    let mut writer = FrameWriter::new(WriteHalf::new(Vec::new()));
    writer.write(FrameType::Ping, b"12345678").unwrap();
    writer.write(FrameType::State, b"abc").unwrap();
    writer.get_ref().get_ref().clone()
}

fn read_all(reader: &mut FrameReader<impl Read>) -> Result<Vec<(FrameType, Vec<u8>)>, FrameError> {
    let mut frames = Vec::new();
    loop {
        match reader.read() {
            Ok(ReadOutcome::Frame(header)) => {
                frames.push((header.kind, reader.body().to_vec()));
            }
            Ok(ReadOutcome::Pending) => {}
            Err(FrameError::Closed) => return Ok(frames),
            Err(error) => return Err(error),
        }
    }
}

fn expected() -> Vec<(FrameType, Vec<u8>)> {
    vec![
        (FrameType::Ping, b"12345678".to_vec()),
        (FrameType::State, b"abc".to_vec()),
    ]
}

#[test]
fn frames_survive_any_fragmentation() {
    let bytes = two_frames();
    for step in 1..=bytes.len() {
        let stream = Trickle {
            bytes: bytes.clone(),
            at: 0,
            step,
            blocked: false,
        };
        assert_eq!(read_all(&mut FrameReader::new(stream)).unwrap(), expected());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = two_frames();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(
            read_all(&mut FrameReader::new(&damaged[..])).is_err(),
            "bit {bit}"
        );
    }
}

#[test]
fn a_stream_cut_inside_a_frame_is_an_error_and_between_frames_an_end() {
    let bytes = two_frames();
    let first_ends = PREFACE.len() + HEADER_BYTES + 8;
    for cut in 0..bytes.len() {
        let result = read_all(&mut FrameReader::new(&bytes[..cut]));
        match cut {
            _ if cut == PREFACE.len() => assert_eq!(result.unwrap(), []),
            _ if cut == first_ends => assert_eq!(result.unwrap(), expected()[..1]),
            _ => assert!(matches!(result, Err(FrameError::Io(_))), "cut at {cut}"),
        }
    }
}

#[test]
fn an_unknown_frame_is_skipped_only_if_it_says_so() {
    let frame = |kind: u16, sequence: u64| {
        let header = FrameHeader {
            kind: FrameType::Ping,
            length: 0,
            sequence,
            body_crc: crc32c(&[]),
        };
        let mut bytes = header.encode();
        bytes[0..2].copy_from_slice(&kind.to_le_bytes());
        let crc = crc32c(&bytes[..20]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    let optional = [&PREFACE[..], &frame(0x8fff, 0), &frame(0x41, 1)].concat();
    let frames = read_all(&mut FrameReader::new(&optional[..])).unwrap();
    assert_eq!(frames, [(FrameType::Pong, vec![])]);
    let mandatory = [&PREFACE[..], &frame(0x0fff, 0)].concat();
    let result = read_all(&mut FrameReader::new(&mandatory[..]));
    assert!(matches!(result, Err(FrameError::UnknownType(0x0fff))));
}

#[test]
fn something_else_on_the_port_is_named() {
    let result = read_all(&mut FrameReader::new(&b"HTTP/1.1 400 Bad Request"[..]));
    assert!(matches!(result, Err(FrameError::NotPagelift(_))));
}

proptest! {
    #[test]
    fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let stream = [&PREFACE[..], &bytes].concat();
        let _ = read_all(&mut FrameReader::new(&stream[..]));
    }
}
