//! A socket that several threads use: one descriptor for reading, writing and closing.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// A handle on a socket. The last one closes it.
#[derive(Clone, Debug)]
pub(super) struct Stream(Arc<TcpStream>);

impl Stream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.0
    }
}

/// Reads, and tells a lost connection from silence.
///
/// A read that found nothing for the socket's time-out ends with EAGAIN (socket(7), `SO_RCVTIMEO`),
/// but a connection that the kernel has given up ends with ETIMEDOUT, which the standard library
/// calls `TimedOut` and readers take for "nothing yet".
impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket()
            .read(buffer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => {
                    io::Error::new(io::ErrorKind::NotConnected, error.to_string())
                }
                _ => error,
            })
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
