//! A byte stream that somebody has given: an open descriptor, standard input and output, or a program
//! that carries the bytes.
//!
//! There is one of it, and who has it is the other end: nobody else is asked who he is. Both directions
//! are read and written without blocking, so that any thread can end them ([`ByteStream::end`]).

mod child;
mod open;
mod sigpipe;

pub(crate) use child::Carrier;

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::Shutdown;
use socket2::SockRef;

/// A byte stream, both ways.
#[derive(Debug)]
pub(crate) struct ByteStream {
    rx: File,
    /// Until the stream is ended.
    tx: Mutex<Option<Sink>>,
    /// Readable from the end on.
    ended: OwnedFd,
    carrier: Option<Carrier>,
    name: String,
}

impl ByteStream {
    /// Reads `rx` and writes `tx`, which do not block.
    fn new(rx: File, tx: File, carrier: Option<Carrier>, name: String) -> io::Result<Self> {
        Ok(Self {
            rx,
            tx: Mutex::new(Some(Sink::new(tx)?)),
            ended: eventfd(0, EventfdFlags::CLOEXEC)?,
            carrier,
            name,
        })
    }

    /// What it is, in words for people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Reads some bytes, after waiting for them; 0 at the end.
    ///
    /// # Errors
    /// When reading fails, or the stream is ended on this side.
    pub(crate) fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.rx).read(out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(&self.rx, PollFlags::IN, None)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// Fills `out`; `false` at the end, with nothing read.
    ///
    /// # Errors
    /// As [`read`](Self::read), and when the stream ends in the middle.
    pub(crate) fn read_exact(&self, out: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < out.len() {
            match self.read(&mut out[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(true)
    }

    /// Writes `head` and `body`, one after the other, in one call where the kernel takes all; waits at
    /// most `patience` at a time.
    ///
    /// # Errors
    /// When writing fails or takes too long, or the stream is ended on this side.
    pub(crate) fn write_all(
        &self,
        mut head: &[u8],
        mut body: &[u8],
        patience: Option<Duration>,
    ) -> io::Result<()> {
        let held = self.tx();
        let tx = held.as_ref().ok_or_else(ended_here)?;
        while !(head.is_empty() && body.is_empty()) {
            match tx.write(&[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    let of_head = count.min(head.len());
                    (head, body) = (&head[of_head..], &body[count - of_head..]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(&tx.file, PollFlags::OUT, patience)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends both directions, from any thread: calls that wait return at once.
    pub(crate) fn end(&self) {
        // Eight bytes that are no zero, in whatever order.
        let _ = rustix::io::write(&self.ended, &[1; 8]);
        if let Some(tx) = self.tx().take() {
            // For a socket, which others may hold as well; for a pipe it fails, and closing does it.
            let _ = rustix::net::shutdown(&tx.file, Shutdown::Both);
        }
    }

    /// How the program ended that carries the bytes, in words, if there is one and it has.
    pub(crate) fn carrier_end(&self) -> Option<String> {
        self.carrier.as_ref()?.end_in_words()
    }

    fn wait(&self, file: &File, what: PollFlags, patience: Option<Duration>) -> io::Result<()> {
        let patience = patience.map(Timespec::try_from).transpose();
        let patience = patience.map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut ready = [
            PollFd::new(file, what),
            PollFd::new(&self.ended, PollFlags::IN),
        ];
        match poll(&mut ready, patience.as_ref()) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) if ready[1].revents().is_empty() => Ok(()),
            Ok(_) => Err(ended_here()),
            Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn tx(&self) -> MutexGuard<'_, Option<Sink>> {
        self.tx.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where bytes are written to.
#[derive(Debug)]
struct Sink {
    file: File,
    is_socket: bool,
}

impl Sink {
    fn new(file: File) -> io::Result<Self> {
        let is_socket = file.metadata()?.file_type().is_socket();
        Ok(Self { file, is_socket })
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.is_socket {
            // Not writev(2), which would raise SIGPIPE in a program that does not ignore it.
            return SockRef::from(&self.file).send_vectored_with_flags(parts, libc::MSG_NOSIGNAL);
        }
        sigpipe::withheld(|| (&self.file).write_vectored(parts))
    }
}

fn ended_here() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "it was closed on this side",
    )
}
