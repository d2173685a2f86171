//! Reading frames from a byte stream that may give them in pieces.
//!
//! Invariants: a body is never longer than [`MAX_BODY_BYTES`](super::MAX_BODY_BYTES), and it is
//! handed out only whole, with the checksum that its header has, and in its turn.

use std::io::{self, Read};

use super::{FrameError, FrameHeader, HEADER_BYTES, PREFACE, Parsed, crc32c};

/// How a TLS record with an alert begins: its type, and the version's first byte.
const TLS_ALERT: [u8; 2] = [21, 3];

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
    /// Bytes that may still come before the first frame is whole, if that is limited.
    first_frame_bytes: Option<usize>,
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
            first_frame_bytes: None,
        }
    }

    /// The same, but the first frame, with all that may be skipped before it, takes at most
    /// `bytes` bytes: nobody knows yet who sends it.
    pub fn limited(stream: R, bytes: usize) -> Self {
        Self {
            first_frame_bytes: Some(bytes),
            ..Self::new(stream)
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
                    // An alert may be all that comes, and is shorter than a preface.
                    let alert = matches!(self.part, Part::Preface)
                        && self.filled >= TLS_ALERT.len()
                        && self.header.starts_with(&TLS_ALERT);
                    return Err(match error.kind() {
                        io::ErrorKind::UnexpectedEof if alert => FrameError::SpeaksTls,
                        io::ErrorKind::UnexpectedEof if between_frames => FrameError::Closed,
                        _ => error.into(),
                    });
                }
            }
            match self.part {
                Part::Preface => {
                    let mut preface = [0; PREFACE.len()];
                    preface.copy_from_slice(&self.header[..PREFACE.len()]);
                    if preface.starts_with(&TLS_ALERT) {
                        return Err(FrameError::SpeaksTls);
                    }
                    if preface != PREFACE {
                        return Err(FrameError::NotPagelift(preface));
                    }
                    self.part = Part::Header;
                }
                Part::Header => {
                    let parsed = FrameHeader::decode(&self.header, self.sequence)?;
                    let (Parsed::Frame(FrameHeader { length, .. }) | Parsed::Skip { length }) =
                        parsed;
                    if let Some(left) = &mut self.first_frame_bytes {
                        // A skipped frame without a body counts as well, or there could be any number.
                        *left = left
                            .checked_sub(length + HEADER_BYTES)
                            .ok_or(FrameError::TooMuchAtFirst(length))?;
                    }
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
                    if crc32c(self.body()) != header.body_crc {
                        return Err(FrameError::DamagedBody {
                            sequence: header.sequence,
                            kind: header.kind,
                            length: header.length,
                        });
                    }
                    self.first_frame_bytes = None;
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
