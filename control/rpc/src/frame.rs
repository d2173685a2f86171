//! A stream of bytes, cut into messages.

use crate::message::{HEADER_BYTES, Header, MAX_MESSAGE_BYTES, Message};
use crate::xdr::{Input, Xdr};

/// The length of a message is shorter than its header, or longer than a message may be.
///
/// Nothing behind it can be understood: the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message with a length of {length} bytes; it must be {HEADER_BYTES} to {limit}")]
pub struct BadLength {
    /// The length that came.
    pub length: u32,
    /// The longest that is taken.
    pub limit: usize,
}

/// Takes bytes as they come, and gives messages.
///
/// It holds what has come of the next messages, and no room for what has not: a peer that promises
/// much and sends little costs little.
#[derive(Debug)]
pub struct FrameReader {
    limit: usize,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were given out.
    taken: usize,
}

impl Default for FrameReader {
    /// One that takes messages of up to [`MAX_MESSAGE_BYTES`].
    fn default() -> Self {
        Self::new(MAX_MESSAGE_BYTES)
    }
}

impl FrameReader {
    /// One that takes messages of up to `limit` bytes, their length included.
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// From here on messages of up to `limit` bytes are taken.
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The bytes that came next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that are held, of messages that were not given out.
    pub const fn held(&self) -> usize {
        self.buffer.len() - self.taken
    }

    /// The next message, once it is whole.
    ///
    /// # Errors
    /// As soon as its length is known to be wrong; then for ever.
    pub fn next_message(&mut self) -> Result<Option<Message>, BadLength> {
        let held = &self.buffer[self.taken..];
        let mut input = Input::new(held);
        let Ok(word) = u32::take(&mut input) else {
            return Ok(None);
        };
        let length = word as usize;
        if !(HEADER_BYTES..=self.limit).contains(&length) {
            let limit = self.limit;
            return Err(BadLength {
                length: word,
                limit,
            });
        }
        if held.len() < length {
            return Ok(None);
        }
        let Ok(header) = Header::take(&mut input) else {
            return Ok(None);
        };
        let body = held[HEADER_BYTES..length].to_vec();
        self.taken += length;
        if self.held() == 0 {
            // The room for a long message is not kept for the short ones that follow.
            self.buffer = Vec::new();
            self.taken = 0;
        }
        Ok(Some(Message { header, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{PING, PONG};

    fn reader(bytes: &[u8]) -> FrameReader {
        let mut reader = FrameReader::default();
        reader.push(bytes);
        reader
    }

    #[test]
    fn messages_come_byte_by_byte_and_together() {
        let messages = [Message::keepalive(PING), Message::keepalive(PONG)];
        let bytes: Vec<u8> = messages.iter().flat_map(|m| m.encode().unwrap()).collect();

        let mut together = reader(&bytes);
        assert_eq!(together.next_message(), Ok(Some(messages[0].clone())));
        assert_eq!(together.next_message(), Ok(Some(messages[1].clone())));
        assert_eq!(together.next_message(), Ok(None));
        assert_eq!(together.held(), 0);

        let mut single = FrameReader::default();
        let mut found = Vec::new();
        for byte in bytes {
            single.push(&[byte]);
            found.extend(single.next_message().unwrap());
        }
        assert_eq!(found, messages);
    }

    #[test]
    fn a_wrong_length_is_seen_before_the_body() {
        let longest = u32::try_from(MAX_MESSAGE_BYTES).unwrap();
        for (length, good) in [
            (0, false),
            (4, false),
            (27, false),
            (28, true),
            (longest, true),
            (longest + 1, false),
            (u32::MAX, false),
        ] {
            let mut reader = reader(&length.to_be_bytes());
            assert_eq!(reader.next_message().is_ok(), good, "{length}");
        }
    }
}
