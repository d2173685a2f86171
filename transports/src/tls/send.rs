//! The sending half of a TLS connection.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pagelift_engine::transport::{SendHalf, SendStats, WriteHalf};

use super::session::Session;

/// Encrypts, and sends over the connection below. Frames are made in memory of its own; the connection
/// below lends what encrypted bytes are put into.
pub(super) struct TlsHalf(WriteHalf<Writer>);

struct Writer(Arc<Session>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsHalf {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self(WriteHalf::new(Writer(session)))
    }
}

impl SendHalf for TlsHalf {
    fn lend(&mut self) -> io::Result<BytesMut> {
        self.0.lend()
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.send(bytes)
    }

    fn give_back(&mut self, buffer: Bytes) {
        self.0.give_back(buffer);
    }

    /// Those of the connection below: encrypted bytes, which are hardly more.
    fn stats(&mut self) -> SendStats {
        self.0.get_ref().0.stats()
    }
}
