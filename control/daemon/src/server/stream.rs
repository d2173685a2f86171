//! Bytes of a connection, which never wait; and what ends a wait.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, eventfd};
use rustls::ServerConnection;

/// Ends a wait of another thread's.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    pub(super) fn wake(&self) {
        // Any number but 0 ends a wait; it only fails when it is full, and then the wait ends too.
        let _full = rustix::io::write(&self.0, &1_u64.to_le_bytes());
    }

    pub(super) fn clear(&self) {
        let _empty = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A connection's bytes.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<Tls>),
}

impl Stream {
    /// What has come; 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            Self::Tcp(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    /// Sends what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(bytes),
            Self::Tcp(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    /// Whether something that was taken has yet to be sent.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Unix(_) | Self::Tcp(_) => Ok(false),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
            Self::Tls(tls) => tls.socket.as_fd(),
        }
    }
}

/// What a server says first, once a client's certificate is found to be good.
const TAKEN_IN: &[u8] = b"\x01";

/// TLS over TCP.
#[derive(Debug)]
pub(super) struct Tls {
    socket: TcpStream,
    session: ServerConnection,
    taken_in: bool,
}

impl Tls {
    pub(super) const fn new(socket: TcpStream, session: ServerConnection) -> Self {
        Self {
            socket,
            session,
            taken_in: false,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.taken_in && !self.session.is_handshaking() {
                self.taken_in = true;
                self.session.writer().write_all(TAKEN_IN)?;
            }
            self.flush()?;
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Without a farewell, as most clients end it.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            if let Err(error) = self.session.process_new_packets() {
                // The client is to hear why.
                let _as_far_as_it_goes = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.session.is_handshaking() || self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.session.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}
