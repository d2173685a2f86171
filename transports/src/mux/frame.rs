//! The head of a frame.

use std::io;

use super::{SLICE_BYTES, WINDOW_BYTES};

/// Bytes of a head.
pub(super) const HEAD_BYTES: usize = 8;

/// A frame as it stands on the wire, without the bytes that may follow.
pub(super) type Head = [u8; HEAD_BYTES];

/// A frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Open { stream: u16 },
    Data { stream: u16, length: usize },
    Credit { stream: u16, bytes: usize },
    Close { stream: u16 },
}

impl Frame {
    pub(super) fn encode(self) -> Head {
        // Values have bounds that are far below 2^32.
        let (kind, stream, value) = match self {
            Self::Open { stream } => (1, stream, 0),
            Self::Data { stream, length } => (2, stream, length as u32),
            Self::Credit { stream, bytes } => (3, stream, bytes as u32),
            Self::Close { stream } => (4, stream, 0),
        };
        let ([s0, s1], [v0, v1, v2, v3]) = (stream.to_le_bytes(), value.to_le_bytes());
        [kind, 0, s0, s1, v0, v1, v2, v3]
    }

    /// # Errors
    /// When no side of ours makes such a frame.
    pub(super) fn decode(head: Head) -> io::Result<Self> {
        let [kind, zero, s0, s1, v0, v1, v2, v3] = head;
        let stream = u16::from_le_bytes([s0, s1]);
        let value = u32::from_le_bytes([v0, v1, v2, v3]) as usize;
        match (kind, zero, value) {
            (1, 0, 0) => Ok(Self::Open { stream }),
            (2, 0, 1..=SLICE_BYTES) => Ok(Self::Data {
                stream,
                length: value,
            }),
            (3, 0, 1..=WINDOW_BYTES) => Ok(Self::Credit {
                stream,
                bytes: value,
            }),
            (4, 0, 0) => Ok(Self::Close { stream }),
            _ => Err(misbehaved("a frame that does not exist")),
        }
    }
}

/// The other side does not keep to the protocol.
pub(super) fn misbehaved(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the other side sends {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_reads_as_a_frame_is_one(head: Head) {
            if let Ok(frame) = Frame::decode(head) {
                prop_assert_eq!(frame.encode(), head);
            }
        }

        #[test]
        fn frames_read_back_as_written(
            stream: u16,
            length in 1..=SLICE_BYTES,
            bytes in 1..=WINDOW_BYTES,
        ) {
            for frame in [
                Frame::Open { stream },
                Frame::Data { stream, length },
                Frame::Credit { stream, bytes },
                Frame::Close { stream },
            ] {
                prop_assert_eq!(Frame::decode(frame.encode()).unwrap(), frame);
            }
        }
    }
}
