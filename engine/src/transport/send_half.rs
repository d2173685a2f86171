//! The sending half of a connection, and the buffers it lends.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};

use super::SendStats;
use crate::units::{PageIndex, PageRange};

/// Bytes of a buffer that [`SendHalf::lend`] lends: a frame of the longest body, and a page to place
/// the content of pages where the kernel copies quickly.
pub const SEND_BUFFER_BYTES: usize = (1 << 20) + (16 << 10);

/// The sending half of a connection.
///
/// The bytes of a frame are made in a buffer that the connection lends, so that a transport decides
/// where that memory is (registered with a network card or an io_uring, say) and may send from there
/// after the call, without a copy:
///
/// 1. [`lend`](Self::lend) a buffer, write the frame's bytes to it, and
///    [freeze](BytesMut::freeze) it;
/// 2. [`send`](Self::send) these bytes, in one piece or several, in their order;
/// 3. [`give_back`](Self::give_back) the buffer. It is lent again when nobody holds any of its bytes.
///
/// A transport that still sends from the memory when `send` has returned keeps the [`Bytes`] until
/// the kernel or the card is done with them. What is sent need not be from a lent buffer.
///
/// [`WriteHalf`] makes one of any [`Write`].
pub trait SendHalf: Send {
    /// Lends a buffer of at least [`SEND_BUFFER_BYTES`], whose content is left over from earlier
    /// frames. Waits until one is free.
    ///
    /// # Errors
    /// When the connection is lost.
    fn lend(&mut self) -> io::Result<BytesMut>;

    /// Sends `bytes` after all that was sent before. Waits until the connection has taken them.
    ///
    /// # Errors
    /// When the connection is lost. What of the bytes was sent is not known then.
    fn send(&mut self, bytes: Bytes) -> io::Result<()>;

    /// Takes back a buffer that was lent.
    fn give_back(&mut self, buffer: Bytes);

    /// How sending goes. May cost a few system calls.
    fn stats(&mut self) -> SendStats;

    /// Whether the transport puts pages into the target's memory by itself.
    fn is_one_sided(&self) -> bool {
        false
    }

    /// Whether [`place`](Self::place) can put the pages of `runs` into the target's memory now. May wait
    /// until the target has made them accessible; without runs, until it has done what it does before the
    /// first page.
    ///
    /// # Errors
    /// When the connection is lost, or the target cannot make them accessible; the error says why.
    fn can_place(&mut self, runs: &[PageRange]) -> io::Result<bool> {
        let _ = runs;
        Ok(false)
    }

    /// Puts `pages`, of a buffer that was lent and in the order of the guest's pages, into the target's
    /// memory from page `first` on. They [can](Self::can_place) be placed, and are there when what is sent
    /// afterwards arrives.
    ///
    /// # Errors
    /// When the connection is lost.
    fn place(&mut self, first: PageIndex, pages: Bytes) -> io::Result<()> {
        let _ = (first, pages);
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl<S: SendHalf + ?Sized> SendHalf for Box<S> {
    fn lend(&mut self) -> io::Result<BytesMut> {
        (**self).lend()
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        (**self).send(bytes)
    }

    fn give_back(&mut self, buffer: Bytes) {
        (**self).give_back(buffer);
    }

    fn stats(&mut self) -> SendStats {
        (**self).stats()
    }

    fn is_one_sided(&self) -> bool {
        (**self).is_one_sided()
    }

    fn can_place(&mut self, runs: &[PageRange]) -> io::Result<bool> {
        (**self).can_place(runs)
    }

    fn place(&mut self, first: PageIndex, pages: Bytes) -> io::Result<()> {
        (**self).place(first, pages)
    }
}

/// A new buffer to lend, of [`SEND_BUFFER_BYTES`] zeros. The kernel populates it at first use.
pub fn send_buffer() -> BytesMut {
    let mut buffer = BytesMut::zeroed(SEND_BUFFER_BYTES);
    // Counts references from now on: to freeze it and to get it back then allocates nothing.
    let rest = buffer.split_off(SEND_BUFFER_BYTES / 2);
    buffer.unsplit(rest);
    buffer
}

/// Sends to a [`Write`], which is done with the bytes when its call returns: one buffer is enough.
#[derive(Debug)]
pub struct WriteHalf<W> {
    stream: W,
    buffer: Option<BytesMut>,
}

impl<W: Write> WriteHalf<W> {
    /// Sends to `stream`.
    pub fn new(stream: W) -> Self {
        Self {
            stream,
            buffer: None,
        }
    }

    /// The stream.
    pub fn get_ref(&self) -> &W {
        &self.stream
    }
}

impl<W: Write + Send> SendHalf for WriteHalf<W> {
    fn lend(&mut self) -> io::Result<BytesMut> {
        Ok(self.buffer.take().unwrap_or_else(send_buffer))
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.stream.write_all(&bytes)?;
        self.stream.flush()
    }

    fn give_back(&mut self, buffer: Bytes) {
        // A decorator may still hold some of its bytes; then the next frame gets a new one.
        self.buffer = buffer.try_into_mut().ok();
    }

    /// A stream tells nothing.
    fn stats(&mut self) -> SendStats {
        SendStats::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_as_it_was_lent_and_not_while_somebody_holds_it() {
        let mut half = WriteHalf::new(Vec::new());
        let mut buffer = half.lend().unwrap();
        let place = buffer.as_ptr();
        buffer[..5].copy_from_slice(b"bytes");
        let buffer = buffer.freeze();
        half.send(buffer.slice(..2)).unwrap();
        half.send(buffer.slice(2..5)).unwrap();
        half.give_back(buffer);
        let again = half.lend().unwrap();
        assert_eq!((again.as_ptr(), again.len()), (place, SEND_BUFFER_BYTES));

        let buffer = again.freeze();
        let held = buffer.slice(..1);
        half.give_back(buffer);
        assert_ne!(half.lend().unwrap().as_ptr(), held.as_ptr());
        assert_eq!(half.get_ref(), b"bytes");
    }
}
