//! Numbering frames, and handing them to the sending half of a connection.

use std::io;

use super::{FrameBuffer, FrameHeader, FrameType, HEADER_BYTES, MAX_BODY_BYTES, PREFACE, crc32c};
use crate::transport::{SendHalf, SendStats};
use crate::units::PageRange;

/// Writes frames to a connection, beginning with the preface.
#[derive(Debug)]
pub struct FrameWriter<S> {
    half: S,
    sequence: u64,
    greeted: bool,
}

impl<S: SendHalf> FrameWriter<S> {
    /// Writes to `half`, to which nothing was sent before.
    pub fn new(half: S) -> Self {
        Self {
            half,
            sequence: 0,
            greeted: false,
        }
    }

    /// Memory to make a frame in, for [`send`](Self::send). Waits until the connection has some.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn begin(&mut self) -> io::Result<FrameBuffer> {
        Ok(FrameBuffer::new(self.half.lend()?))
    }

    /// Sends a frame that was [begun](Self::begin) here. Returns the bytes it took on the wire.
    ///
    /// # Errors
    /// Those of the connection. The frame may then be half sent: the connection is unusable.
    pub fn send(&mut self, kind: FrameType, frame: FrameBuffer) -> io::Result<u64> {
        let length = frame.body().len();
        debug_assert!(length <= MAX_BODY_BYTES, "a body within the cap");
        let header = FrameHeader {
            kind,
            length,
            sequence: self.sequence,
            body_crc: crc32c(frame.body()),
        };
        let FrameBuffer {
            mut memory,
            start: body_at,
            end,
            ..
        } = frame;
        let mut start = body_at - HEADER_BYTES;
        memory[start..body_at].copy_from_slice(&header.encode());
        if !self.greeted {
            start -= PREFACE.len();
            memory[start..start + PREFACE.len()].copy_from_slice(&PREFACE);
        }
        let memory = memory.freeze();
        self.half.send(memory.slice(start..end))?;
        self.half.give_back(memory);
        self.greeted = true;
        self.sequence += 1;
        Ok((end - start) as u64)
    }

    /// Sends a frame with a copy of `body`. Returns the bytes it took on the wire.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn write(&mut self, kind: FrameType, body: &[u8]) -> io::Result<u64> {
        let mut frame = self.begin()?;
        frame.copy_body(body);
        self.send(kind, frame)
    }

    /// Whether the transport can put these pages into the target's memory by itself now; see
    /// [`SendHalf::can_place`].
    ///
    /// # Errors
    /// Those of the connection.
    pub fn can_place(&mut self, runs: &[PageRange]) -> io::Result<bool> {
        self.half.can_place(runs)
    }

    /// Has the transport put pages into the target's memory, before the frame that is sent next: those of
    /// each range, whose content is in the [pages](FrameBuffer::pages) of `buffer` from that byte on.
    ///
    /// # Errors
    /// Those of the connection, which is then unusable.
    pub fn place(&mut self, buffer: FrameBuffer, ranges: &[(PageRange, usize)]) -> io::Result<()> {
        let (memory, pages_at) = buffer.into_pages();
        for (range, at) in ranges {
            let start = pages_at + at;
            let pages = memory.slice(start..start + range.len_bytes());
            self.half.place(range.first, pages)?;
        }
        self.half.give_back(memory);
        Ok(())
    }

    /// How sending goes.
    pub fn stats(&mut self) -> SendStats {
        self.half.stats()
    }

    /// The sending half.
    pub fn get_ref(&self) -> &S {
        &self.half
    }
}
