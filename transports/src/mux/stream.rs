//! One stream: a connection within the byte stream.

use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pagelift_engine::transport::{Closer, Connection, Peer, WriteHalf};

use super::frame::{Frame, misbehaved};
use super::inbox::{Inbox, Slot};
use super::session::Session;
use super::turn::Urgency;
use super::{SLICE_BYTES, WINDOW_BYTES};

/// Longest wait in a read before it says that there is nothing.
const READ_TICK: Duration = Duration::from_millis(200);

/// What both halves of a stream share.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) number: u16,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    inbox: Inbox,
    /// Bytes that this side may send.
    credit: usize,
    /// A thread writes a frame of this stream.
    is_writing: bool,
    end: Option<End>,
}

/// How a stream came to its end; the first reason counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Closed on this side.
    Here,
    /// Closed on the other side.
    There,
    /// The byte stream has ended, for this reason.
    Lost(String),
}

impl Stream {
    pub(super) fn new(number: u16) -> Self {
        Self {
            number,
            state: Mutex::new(State {
                inbox: Inbox::default(),
                credit: WINDOW_BYTES,
                is_writing: false,
                end: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// A slot for `length` received bytes; see [`Inbox::take`].
    pub(super) fn take_slot(&self, length: usize) -> io::Result<Slot> {
        let slot = self.lock().inbox.take(length);
        slot.ok_or_else(|| misbehaved("more than it may"))
    }

    /// The slot has its bytes.
    pub(super) fn put_slot(&self, slot: Slot) {
        self.lock().inbox.put(slot);
        self.changed.notify_all();
    }

    /// The other side has read `bytes`.
    pub(super) fn grant(&self, bytes: usize) -> io::Result<()> {
        let mut state = self.lock();
        let credit = state.credit + bytes;
        if credit > WINDOW_BYTES {
            return Err(misbehaved("credit for what it has not got"));
        }
        state.credit = credit;
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Ends both halves; whether a frame of it was being written.
    pub(super) fn end(&self, end: End) -> bool {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        let is_writing = state.is_writing;
        drop(state);
        self.changed.notify_all();
        is_writing
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change until `until`, if there is a limit.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, State> {
        let Some(until) = until else {
            let waited = self.changed.wait(state);
            return waited.unwrap_or_else(PoisonError::into_inner);
        };
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(state, left);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The connection that `stream` is to the engine.
pub(super) fn connection(
    session: &Arc<Session>,
    stream: &Arc<Stream>,
    urgency: Urgency,
) -> Connection {
    let (closing, closed) = (Arc::clone(session), Arc::clone(stream));
    Connection {
        tx: Box::new(WriteHalf::new(Sender {
            session: Arc::clone(session),
            stream: Arc::clone(stream),
            urgency,
        })),
        rx: Box::new(Receiver {
            session: Arc::clone(session),
            stream: Arc::clone(stream),
        }),
        closer: Closer::new(move || closing.close(&closed)),
        peer: Peer::unauthenticated(session.name()),
        one_sided: None,
    }
}

struct Sender {
    session: Arc<Session>,
    stream: Arc<Stream>,
    urgency: Urgency,
}

impl Write for Sender {
    /// Sends a slice, when there is credit for one.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.stream.lock();
        while state.credit == 0 && state.end.is_none() {
            state = self.stream.wait(state, None);
        }
        if let Some(end) = &state.end {
            return Err(match end {
                End::Here | End::There => io::ErrorKind::BrokenPipe.into(),
                End::Lost(why) => io::Error::new(io::ErrorKind::ConnectionAborted, why.clone()),
            });
        }
        let length = bytes.len().min(state.credit).min(SLICE_BYTES);
        state.credit -= length;
        state.is_writing = true;
        drop(state);
        let frame = Frame::Data {
            stream: self.stream.number,
            length,
        };
        let sent = self.session.send(frame, &bytes[..length], self.urgency);
        self.stream.lock().is_writing = false;
        sent.map(|()| length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Receiver {
    session: Arc<Session>,
    stream: Arc<Stream>,
}

impl Read for Receiver {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let until = Instant::now() + READ_TICK;
        let mut state = self.stream.lock();
        loop {
            let count = state.inbox.read(out);
            if count > 0 {
                let credit = state.inbox.credit();
                drop(state);
                if let Some(bytes) = credit {
                    let stream = self.stream.number;
                    self.session.leave(Frame::Credit { stream, bytes });
                }
                return Ok(count);
            }
            match &state.end {
                Some(End::Here | End::There) => return Ok(0),
                Some(End::Lost(why)) => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        why.clone(),
                    ));
                }
                None if Instant::now() >= until => return Err(io::ErrorKind::WouldBlock.into()),
                None => state = self.stream.wait(state, Some(until)),
            }
        }
    }
}
