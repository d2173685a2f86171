//! A frame that is being made.

use bytes::BytesMut;

use super::{HEADER_BYTES, MAX_BODY_BYTES, PREFACE};
use crate::transport::SEND_BUFFER_BYTES;
use crate::units::PAGE_BYTES;
use crate::wire::MAX_FRAME_PAGES;

/// Longest that may stand before a body.
const BEFORE_BODY: usize = PREFACE.len() + HEADER_BYTES;

/// Longest that may stand before the content of pages: also what describes them.
const BEFORE_PAGES: usize = BEFORE_BODY + MAX_BODY_BYTES - PAGES_BYTES;

/// Bytes of the most pages of a frame.
const PAGES_BYTES: usize = MAX_FRAME_PAGES * PAGE_BYTES;

/// Where the content of pages begins, in bytes behind a page boundary: see
/// [`PageBuffer`](crate::memory::PageBuffer).
const OFFSET: usize = PAGE_BYTES / 2;

const _: () = assert!(BEFORE_PAGES + PAGES_BYTES + PAGE_BYTES <= SEND_BUFFER_BYTES);

/// A frame that is being made in memory of its connection.
///
/// It ends up in one piece, to be sent without a copy: pages are read to where they are sent from,
/// and what stands before them, of a length that is known last, is written up to them.
///
/// ```text
/// unused | preface, header | head of the body | content of pages | tail of the body | unused
/// ```
#[derive(Debug)]
pub struct FrameBuffer {
    pub(super) memory: BytesMut,
    pages_at: usize,
    /// Where the body is.
    pub(super) start: usize,
    pub(super) end: usize,
}

impl FrameBuffer {
    /// Begins a frame in `memory` of a [`SendHalf`](crate::transport::SendHalf): its body is empty.
    ///
    /// # Panics
    /// If it is less than [`SEND_BUFFER_BYTES`].
    pub fn new(memory: BytesMut) -> Self {
        assert!(memory.len() >= SEND_BUFFER_BYTES, "a buffer for a frame");
        let behind = (memory.as_ptr().addr() + BEFORE_PAGES) % PAGE_BYTES;
        Self {
            memory,
            pages_at: BEFORE_PAGES + (OFFSET + PAGE_BYTES - behind) % PAGE_BYTES,
            start: BEFORE_BODY,
            end: BEFORE_BODY,
        }
    }

    /// Room for the content of the most pages of a frame. Begins half a page from a page boundary,
    /// as a [`PageBuffer`](crate::memory::PageBuffer) does.
    pub fn pages(&mut self) -> &mut [u8] {
        &mut self.memory[self.pages_at..self.pages_at + PAGES_BYTES]
    }

    /// The memory, for the transport to place pages from: byte 0 of the [pages](Self::pages) is at the
    /// offset that comes with it.
    pub(super) fn into_pages(self) -> (bytes::Bytes, usize) {
        (self.memory.freeze(), self.pages_at)
    }

    /// Makes the body of `head`, the first `kept` bytes of the [pages](Self::pages), and `tail`.
    ///
    /// # Panics
    /// If these are longer than a body of pages may be.
    pub fn set_body(&mut self, head: &[u8], kept: usize, tail: &[u8]) {
        let tail_at = self.pages_at + kept;
        self.start = self.pages_at - head.len();
        self.end = tail_at + tail.len();
        self.memory[self.start..self.pages_at].copy_from_slice(head);
        self.memory[tail_at..self.end].copy_from_slice(tail);
    }

    /// Makes the body a copy of `body`.
    ///
    /// # Panics
    /// If it is longer than a body may be.
    pub fn copy_body(&mut self, body: &[u8]) {
        (self.start, self.end) = (BEFORE_BODY, BEFORE_BODY + body.len());
        self.memory[self.start..self.end].copy_from_slice(body);
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::send_buffer;

    #[test]
    fn pages_are_half_a_page_off_wherever_the_memory_is() {
        let mut memory = BytesMut::zeroed(SEND_BUFFER_BYTES + PAGE_BYTES);
        for skipped in [0, 1, 16, 2047, 4095] {
            let mut frame = FrameBuffer::new(memory.split_off(skipped));
            let pages = frame.pages();
            assert_eq!(pages.as_ptr().addr() % PAGE_BYTES, OFFSET);
            assert_eq!(pages.len(), PAGES_BYTES);
            memory.unsplit(frame.memory);
        }
    }

    #[test]
    fn the_longest_bodies_fit_between_what_else_there_is() {
        let mut frame = FrameBuffer::new(send_buffer());
        frame.copy_body(&[1; MAX_BODY_BYTES]);
        assert_eq!(frame.body(), [1; MAX_BODY_BYTES]);
        let head = [2; MAX_BODY_BYTES - PAGES_BYTES];
        frame.pages().fill(3);
        frame.set_body(&head, PAGES_BYTES - 7, &[4; 7]);
        assert!(frame.start >= BEFORE_BODY);
        let (head_there, rest) = frame.body().split_at(head.len());
        let (pages, tail) = rest.split_at(PAGES_BYTES - 7);
        assert_eq!((head_there, tail), (&head[..], &[4; 7][..]));
        assert!(pages.iter().all(|byte| *byte == 3));
    }
}
