//! Reading and writing of the fields of a payload, and what can be wrong with one.

use std::fmt;

use crate::{HEADER_BYTES, MAGIC, MAX_PAYLOAD_BYTES, VERSION};

/// What is wrong with bytes that should have been a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The magic is not that of this protocol.
    Magic(u32),
    /// The message is of another version of the protocol.
    Version(u16),
    /// The header announces a payload beyond the cap; the bytes it announced.
    PayloadTooLong(u32),
    /// The payload ends inside a field.
    Truncated,
    /// The payload goes on after its last field; the bytes left.
    TrailingBytes(usize),
    /// A message of this type is not known, or not in this direction.
    UnknownType(u16),
    /// A field holds what it may not; the name of the field and the rule it breaks.
    Field(&'static str, &'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(found) => {
                write!(
                    f,
                    "not a message of the agent protocol (magic {found:#010x})"
                )
            }
            Self::Version(found) => write!(
                f,
                "message of protocol version {found}, this side speaks {VERSION}; \
                 use pagelift and its agent from the same release"
            ),
            Self::PayloadTooLong(found) => {
                write!(
                    f,
                    "payload of {found} bytes, the most is {MAX_PAYLOAD_BYTES}"
                )
            }
            Self::Truncated => f.write_str("the message ends inside a field"),
            Self::TrailingBytes(left) => write!(f, "{left} bytes after the last field"),
            Self::UnknownType(kind) => write!(
                f,
                "message type {kind:#06x} is not known here; \
                 use pagelift and its agent from the same release"
            ),
            Self::Field(field, rule) => write!(f, "{field} {rule}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Takes fields off the front of a payload.
pub(crate) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, left) = self
            .left
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated)?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, left) = self
            .left
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.left = left;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    /// Ends the reading.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.left.len() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes(left)),
        }
    }
}

/// Puts the header in front of a payload that the caller kept within the cap.
pub(crate) fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("payloads are capped at 64 KiB");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}
