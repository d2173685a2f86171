//! Frames: the header, its checksums, and reading and writing whole frames on a byte stream.
//!
//! A connection starts with the 8 bytes [`PREFACE`] in each direction, then carries frames: a
//! header of [`HEADER_BYTES`] and a body of at most [`MAX_BODY_BYTES`]. Frames on one
//! connection are numbered from 0, so that a lost or repeated one is noticed.
//!
//! Cost: one CRC-32C over the body on each side, one write call per frame (vectored), and two
//! read calls. Buffers are reused; after the largest frame nothing is allocated.

use std::io::{self, IoSlice, Read, Write};

use super::MAX_FRAME_PAGES;
use super::pages::RUN_BYTES;
use crate::units::PAGE_BYTES;

/// The first bytes each side sends on a connection.
pub const PREFACE: [u8; 8] = *b"pagelift";

/// Length of a frame's header.
pub const HEADER_BYTES: usize = 24;

/// Longest body of a frame: a full frame of raw pages, each its own run.
pub const MAX_BODY_BYTES: usize = 8 + MAX_FRAME_PAGES * (RUN_BYTES + PAGE_BYTES);

/// Set in the type of a frame that a reader may skip when it does not know it.
const OPTIONAL: u16 = 0x8000;

/// What a frame's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum FrameType {
    /// Source to target, first on the control connection.
    Hello = 0x01,
    /// Target's answer: the migration may start.
    Accept = 0x02,
    /// Target's answer: it cannot start, with the reasons.
    Refuse = 0x03,
    /// First on a data connection: which migration and which channel.
    Join = 0x04,
    /// Pages of one round.
    Pages = 0x10,
    /// The channel has carried all its pages of a round.
    RoundEnd = 0x11,
    /// Frames that the target has placed.
    Ack = 0x12,
    /// The round that just ended is the last one.
    LastRound = 0x13,
    /// Everything is in the target's memory.
    Complete = 0x14,
    /// Fingerprints of pages that the target has beside the guest's memory.
    Catalogue = 0x15,
    /// Pages that are not where references said.
    Missing = 0x16,
    /// Bytes of the guest's device state, or of the answers to it.
    State = 0x20,
    /// The target could run the guest now.
    Ready = 0x30,
    /// The source has given up the right to run.
    HandOver = 0x31,
    /// The guest runs on the target.
    Running = 0x32,
    /// A new control connection for a migration that is being handed over.
    Reattach = 0x33,
    /// The source knows that the guest runs on the target.
    Settled = 0x34,
    /// The migration ends; the sender of this says why.
    Abort = 0x3f,
    /// Are you there?
    Ping = 0x40,
    /// I am.
    Pong = 0x41,
}

impl FrameType {
    const ALL: [Self; 20] = [
        Self::Hello,
        Self::Accept,
        Self::Refuse,
        Self::Join,
        Self::Pages,
        Self::RoundEnd,
        Self::Ack,
        Self::LastRound,
        Self::Complete,
        Self::Catalogue,
        Self::Missing,
        Self::State,
        Self::Ready,
        Self::HandOver,
        Self::Running,
        Self::Reattach,
        Self::Settled,
        Self::Abort,
        Self::Ping,
        Self::Pong,
    ];

    fn from_wire(value: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == value)
    }
}

/// Why a frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed or ended inside a frame.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The other end closed the connection between two frames.
    #[error("the other side closed the connection")]
    Closed,
    /// The first bytes are not those of this protocol.
    #[error(
        "the other side does not speak pagelift's protocol, it began with \"{}\"; check host and \
         port",
        .0.escape_ascii()
    )]
    NotPagelift([u8; 8]),
    /// The header's checksum is wrong: the stream is damaged, or out of step.
    #[error("frame {sequence}: damaged header")]
    DamagedHeader {
        /// Number of the frame that was expected.
        sequence: u64,
    },
    /// The body's checksum is wrong.
    #[error("frame {sequence} ({kind:?}): damaged body of {length} bytes")]
    DamagedBody {
        /// Number of the frame.
        sequence: u64,
        /// Its type.
        kind: FrameType,
        /// Length of its body.
        length: usize,
    },
    /// A frame is missing, or there twice.
    #[error("frame number {got} where {expected} was due")]
    OutOfSequence {
        /// Number that was due.
        expected: u64,
        /// Number in the header.
        got: u64,
    },
    /// A frame that must be understood and is not.
    #[error("unknown mandatory frame type {0:#06x}")]
    UnknownType(u16),
    /// The body is longer than any frame may be.
    #[error("a frame of {0} bytes; at most {MAX_BODY_BYTES} are allowed")]
    TooLong(u32),
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: FrameType,
    /// Length of the body in bytes.
    pub length: usize,
    /// Number of the frame on its connection, from 0.
    pub sequence: u64,
    /// CRC-32C of the body.
    pub body_crc: u32,
}

/// CRC-32C (Castagnoli; the `CRC-32/ISCSI` of the CRC catalogues) of `parts`, in order.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    // The value of a 32-bit CRC always fits.
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

impl FrameHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        bytes[0..2].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c(&[&bytes[..20]]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header that must have the number `expected`; `None` is a frame to skip, with the
    /// length of its body.
    fn decode(bytes: &[u8; HEADER_BYTES], expected: u64) -> Result<Parsed, FrameError> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if crc32c(&[&bytes[..20]]) != u32_at(20) {
            return Err(FrameError::DamagedHeader { sequence: expected });
        }
        let sequence = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
        if sequence != expected {
            return Err(FrameError::OutOfSequence {
                expected,
                got: sequence,
            });
        }
        let length = usize::try_from(u32_at(4)).unwrap_or(usize::MAX);
        if length > MAX_BODY_BYTES {
            return Err(FrameError::TooLong(u32_at(4)));
        }
        let kind = u16::from_le_bytes([bytes[0], bytes[1]]);
        match FrameType::from_wire(kind) {
            Some(kind) => Ok(Parsed::Frame(Self {
                kind,
                length,
                sequence,
                body_crc: u32_at(16),
            })),
            None if kind & OPTIONAL != 0 => Ok(Parsed::Skip { length }),
            None => Err(FrameError::UnknownType(kind)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Parsed {
    Frame(FrameHeader),
    Skip { length: usize },
}

/// Writes frames to a byte stream.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    sequence: u64,
    greeted: bool,
}

impl<W: Write> FrameWriter<W> {
    /// Writes to `stream`, beginning with the preface.
    pub fn new(stream: W) -> Self {
        Self {
            stream,
            sequence: 0,
            greeted: false,
        }
    }

    /// Writes one frame whose body is `parts`, in order. Returns the bytes it took on the wire.
    ///
    /// # Errors
    /// Those of the stream. The frame may then be half written: the connection is unusable.
    pub fn write(&mut self, kind: FrameType, parts: &[&[u8]]) -> io::Result<u64> {
        debug_assert!(parts.len() <= 3, "more parts than slices to write");
        let length: usize = parts.iter().map(|part| part.len()).sum();
        debug_assert!(length <= MAX_BODY_BYTES, "a body within the cap");
        let header = FrameHeader {
            kind,
            length,
            sequence: self.sequence,
            body_crc: crc32c(parts),
        }
        .encode();
        let preface: &[u8] = if self.greeted { &[] } else { &PREFACE };
        let mut slices = [IoSlice::new(&[]); 5];
        slices[0] = IoSlice::new(preface);
        slices[1] = IoSlice::new(&header);
        for (slice, part) in slices[2..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        write_all_vectored(&mut self.stream, &mut slices)?;
        self.greeted = true;
        self.sequence += 1;
        Ok((preface.len() + HEADER_BYTES + length) as u64)
    }

    /// The stream beneath.
    pub fn get_ref(&self) -> &W {
        &self.stream
    }
}

/// `Write::write_all_vectored` is not stable yet.
fn write_all_vectored(stream: &mut impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Leading empty slices would make a write of nothing look like a closed stream.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match stream.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.flush()
}

/// What [`FrameReader::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// A whole frame; its body is in [`FrameReader::body`].
    Frame(FrameHeader),
    /// The stream has no more bytes for now (`WouldBlock`, or a read time-out); call again.
    Pending,
}

/// Reads frames from a byte stream, whole or in pieces.
///
/// A stream that has nothing to give for now (`WouldBlock`, `TimedOut`) does not lose what was
/// read so far.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    sequence: u64,
    part: Part,
    /// Bytes of the current part that are there.
    filled: usize,
    header: [u8; HEADER_BYTES],
    /// Grows to the longest body seen and stays so.
    body: Vec<u8>,
    body_length: usize,
}

/// What is being read.
#[derive(Clone, Copy, Debug)]
enum Part {
    Preface,
    Header,
    Body(Parsed),
}

impl<R: Read> FrameReader<R> {
    /// Reads from `stream`, which must begin with the preface.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            sequence: 0,
            part: Part::Preface,
            filled: 0,
            header: [0; HEADER_BYTES],
            body: Vec::new(),
            body_length: 0,
        }
    }

    /// Body of the frame that [`read`](Self::read) returned last.
    pub fn body(&self) -> &[u8] {
        &self.body[..self.body_length]
    }

    /// Reads on until a frame is whole or the stream has nothing to give.
    ///
    /// # Errors
    /// When the stream fails or ends, or what it carries is not a valid frame.
    pub fn read(&mut self) -> Result<ReadOutcome, FrameError> {
        loop {
            let target = match self.part {
                Part::Preface => &mut self.header[..PREFACE.len()],
                Part::Header => &mut self.header[..],
                Part::Body(_) => &mut self.body[..self.body_length],
            };
            match fill(&mut self.stream, target, &mut self.filled) {
                Ok(true) => self.filled = 0,
                Ok(false) => return Ok(ReadOutcome::Pending),
                Err(error) => {
                    let between_frames = matches!(self.part, Part::Header) && self.filled == 0;
                    return Err(match error.kind() {
                        io::ErrorKind::UnexpectedEof if between_frames => FrameError::Closed,
                        _ => error.into(),
                    });
                }
            }
            match self.part {
                Part::Preface => {
                    let mut preface = [0; PREFACE.len()];
                    preface.copy_from_slice(&self.header[..PREFACE.len()]);
                    if preface != PREFACE {
                        return Err(FrameError::NotPagelift(preface));
                    }
                    self.part = Part::Header;
                }
                Part::Header => {
                    let parsed = FrameHeader::decode(&self.header, self.sequence)?;
                    let (Parsed::Frame(FrameHeader { length, .. }) | Parsed::Skip { length }) =
                        parsed;
                    self.body_length = length;
                    if self.body.len() < length {
                        self.body.resize(length, 0);
                    }
                    self.part = Part::Body(parsed);
                }
                Part::Body(parsed) => {
                    self.sequence += 1;
                    self.part = Part::Header;
                    let Parsed::Frame(header) = parsed else {
                        continue;
                    };
                    if crc32c(&[self.body()]) != header.body_crc {
                        return Err(FrameError::DamagedBody {
                            sequence: header.sequence,
                            kind: header.kind,
                            length: header.length,
                        });
                    }
                    return Ok(ReadOutcome::Frame(header));
                }
            }
        }
    }
}

/// Reads into `part` from `filled` on; whether it is full now.
fn fill(stream: &mut impl Read, part: &mut [u8], filled: &mut usize) -> io::Result<bool> {
    while *filled < part.len() {
        match stream.read(&mut part[*filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => *filled += count,
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(false),
                _ => return Err(error),
            },
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        let mut writer = FrameWriter::new(Vec::new());
        writer.write(FrameType::Ping, &[b"12345678"]).unwrap();
        writer.write(FrameType::State, &[b"a", b"", b"bc"]).unwrap();
        writer.stream
    }

    fn read_all(
        reader: &mut FrameReader<impl Read>,
    ) -> Result<Vec<(FrameType, Vec<u8>)>, FrameError> {
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
            let crc = crc32c(&[&bytes[..20]]);
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
}
