//! Frames: the header, its checksums, and reading and writing whole frames on a byte stream.
//!
//! A connection starts with the 8 bytes [`PREFACE`] in each direction, then carries frames: a
//! header of [`HEADER_BYTES`] and a body of at most [`MAX_BODY_BYTES`]. Frames on one
//! connection are numbered from 0, so that a lost or repeated one is noticed.
//!
//! What a body means is not known here: see [`Message`](super::Message) and
//! [`PagesBody`](super::PagesBody).
//!
//! Cost: one CRC-32C over the body on each side, one write call per frame, and two
//! read calls. Buffers are reused; after the largest frame nothing is allocated.

mod buffer;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use buffer::FrameBuffer;
pub use reader::{FrameReader, ReadOutcome};
pub use writer::FrameWriter;

use std::io;

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
    /// See [`Message::Marks`](super::Message::Marks).
    Marks = 0x05,
    /// See [`Message::MarkShows`](super::Message::MarkShows).
    MarkShows = 0x06,
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
    Fingerprints = 0x15,
    /// Pages that are not where references said.
    Missing = 0x16,
    /// Bytes of the guest's device state, or of the answers to it.
    State = 0x20,
    /// The target could run the guest now.
    Ready = 0x30,
    /// The source has relinquished the guest.
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
    /// How long a data channel of the target has waited for data. May be skipped.
    Waited = OPTIONAL | 0x12,
}

impl FrameType {
    /// Every type, in the order of their numbers.
    pub const ALL: [Self; 23] = [
        Self::Hello,
        Self::Accept,
        Self::Refuse,
        Self::Join,
        Self::Marks,
        Self::MarkShows,
        Self::Pages,
        Self::RoundEnd,
        Self::Ack,
        Self::LastRound,
        Self::Complete,
        Self::Fingerprints,
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
        Self::Waited,
    ];

    /// The type with this number, if there is one.
    pub fn from_wire(value: u16) -> Option<Self> {
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
    /// The first bytes are an alert of TLS (RFC 8446, 5.1).
    #[error("the other side speaks TLS; give this side its token, or certificates (--tls-dir)")]
    SpeaksTls,
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
    /// The first frame of a connection is longer than one from somebody unknown may be.
    #[error("a first frame of {0} bytes: too long for a connection that has not said what it is")]
    TooMuchAtFirst(usize),
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

/// CRC-32C (Castagnoli; the `CRC-32/ISCSI` of the CRC catalogues) of `bytes`.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(bytes);
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
        let crc = crc32c(&bytes[..20]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header that must have the number `expected`; `None` is a frame to skip, with the
    /// length of its body.
    fn decode(bytes: &[u8; HEADER_BYTES], expected: u64) -> Result<Parsed, FrameError> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if crc32c(&bytes[..20]) != u32_at(20) {
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

/// What a header announces.
#[derive(Clone, Copy, Debug)]
enum Parsed {
    Frame(FrameHeader),
    Skip { length: usize },
}
