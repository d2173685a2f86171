//! Frames and messages: values to bytes and back, nothing else.
//!
//! The format is documented byte by byte in `docs/wire-format.md`; this module is its one
//! implementation. Everything is little-endian with fixed widths.
//!
//! Nothing that a peer sends is believed: every length is checked against a cap before it is
//! used, every frame carries checksums of its header and body, and no input can panic or
//! allocate more than [`MAX_BODY_BYTES`] (`tests` and the fuzz targets hold this).

mod bytes;
mod encoding;
mod fields;
mod fingerprints;
mod frame;
mod hello;
mod marks;
mod message;
mod pages;
mod pages_builder;
mod reference;

pub use encoding::{Encoding, Encodings};
pub use fingerprints::{FingerprintChunk, MAX_FINGERPRINTS};
pub use frame::{
    FrameBuffer, FrameError, FrameHeader, FrameReader, FrameType, FrameWriter, HEADER_BYTES,
    MAX_BODY_BYTES, PREFACE, ReadOutcome,
};
pub use hello::{
    Accept, DedupTerms, GuestProperty, Hello, Join, MAX_CHANNELS, MAX_PROPERTIES, PropertyKind,
    Reattach, Refuse, SessionId,
};
pub use message::{AbortCode, Ack, Message, StateChunk, Waited};
pub use pages::{MAX_FRAME_PAGES, PageRun, PagesBody, RUN_BYTES};
pub use pages_builder::PagesBuilder;
pub use reference::{MAX_REFERENCE_PAGES, Place, REFERENCE_BYTES, Reference};

/// The newest version of the protocol this build speaks.
pub const VERSION: u16 = 1;

/// The oldest version this build still speaks: always the newest but one, where there is one.
pub const OLDEST_VERSION: u16 = 1;

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a value.
    #[error("{what} is cut short")]
    Truncated {
        /// The value.
        what: &'static str,
    },
    /// Bytes are left where the message should have ended.
    #[error("{count} bytes too many after {what}")]
    TrailingBytes {
        /// The message.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// A count or length is above its cap.
    #[error("{what} is {value}, more than the {cap} allowed")]
    TooLarge {
        /// The count or length.
        what: &'static str,
        /// What the peer sent.
        value: u64,
        /// The most that is accepted.
        cap: u64,
    },
    /// A value has no meaning.
    #[error("{what} has the meaningless value {value:#x}")]
    BadValue {
        /// The field.
        what: &'static str,
        /// What the peer sent.
        value: u64,
    },
    /// A required field is missing, or a field is there twice.
    #[error("{what} is missing or there twice")]
    BadFieldCount {
        /// The field.
        what: &'static str,
    },
    /// A field that must be understood and is not.
    #[error("unknown mandatory field {tag:#06x} in {message}")]
    UnknownField {
        /// The message it was in.
        message: &'static str,
        /// Its tag.
        tag: u16,
    },
    /// A text is not UTF-8.
    #[error("{what} is not UTF-8 text")]
    NotText {
        /// The text.
        what: &'static str,
    },
}
