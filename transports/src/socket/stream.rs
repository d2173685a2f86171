//! A socket that several threads use: one descriptor for reading, writing and closing.

use std::io::{self, Read, Write};
use std::sync::Arc;

use socket2::Socket;

/// A handle on a socket. The last one closes it.
#[derive(Clone, Debug)]
pub(super) struct Stream(Arc<Socket>);

impl Stream {
    pub(super) fn new(socket: Socket) -> Self {
        Self(Arc::new(socket))
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.0
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket().read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not write(2), which would raise SIGPIPE in a program that does not ignore it.
        self.socket().send_with_flags(bytes, libc::MSG_NOSIGNAL)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
