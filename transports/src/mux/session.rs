//! The byte stream with all its streams, and the thread that reads it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::frame::{Frame, HEAD_BYTES, misbehaved};
use super::stream::{End, Stream};
use super::turn::{Turn, Urgency};
use super::{MAX_STREAMS, PREFACE, SLICE_BYTES};
use crate::byte_stream::ByteStream;

/// How long the word that a stream is over may take to leave: who closes one does not wait.
const CLOSE_PATIENCE: Duration = Duration::from_millis(20);

/// Which end of the byte stream this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that opens streams.
    Source,
    Target,
}

/// One byte stream, and what is known of it.
#[derive(Debug)]
pub(super) struct Session {
    bytes: ByteStream,
    side: Side,
    turn: Turn,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The other side has said that it is one of ours.
    is_greeted: bool,
    open: BTreeMap<u16, Arc<Stream>>,
    /// Streams that the other side has opened and nobody has accepted.
    new: VecDeque<Arc<Stream>>,
    next: u16,
    end: Option<(Instant, String)>,
}

/// A session that is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) session: Arc<Session>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    /// Greets the other side, and begins to read.
    ///
    /// # Errors
    /// When there is no thread.
    pub(super) fn start(bytes: ByteStream, side: Side) -> io::Result<Self> {
        let session = Arc::new(Session {
            bytes,
            side,
            turn: Turn::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        // The reader says why, if nobody is there.
        let _ = session.bytes.write_all(&PREFACE, &[], None);
        let reading = Arc::clone(&session);
        let reader = thread::Builder::new()
            .name("pagelift-mux".into())
            .spawn(move || reading.run())?;
        Ok(Self {
            session,
            reader: Some(reader),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.session.end("it was closed on this side");
        if let Some(reader) = self.reader.take() {
            // Its panic was reported when it happened.
            let _ = reader.join();
        }
    }
}

impl Session {
    /// What the byte stream is, in words for people.
    pub(super) fn name(&self) -> &str {
        self.bytes.name()
    }

    /// Waits until the other side has answered.
    ///
    /// # Errors
    /// When it does not within `patience`, or is none of ours.
    pub(super) fn greeted(&self, patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while !state.is_greeted {
            if let Some((_, why)) = &state.end {
                return Err(self.failed(io::ErrorKind::ConnectionAborted, why));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = "nobody answers; is pagelift-receive at the other end, with an address of \
                           the same kind?";
                return Err(self.failed(io::ErrorKind::NotConnected, why));
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// When the byte stream has ended, or has had all the streams that it can.
    pub(super) fn open(&self) -> io::Result<Arc<Stream>> {
        let mut state = self.lock();
        if let Some((_, why)) = &state.end {
            return Err(self.failed(io::ErrorKind::ConnectionAborted, why));
        }
        let number = state.next;
        let Some(next) = number.checked_add(1) else {
            return Err(self.failed(io::ErrorKind::Other, "it has carried 65535 connections"));
        };
        state.next = next;
        let stream = Arc::new(Stream::new(number));
        state.open.insert(number, Arc::clone(&stream));
        drop(state);
        self.leave(Frame::Open { stream: number });
        Ok(stream)
    }

    /// The next stream that the other side has opened; `None` if none came within `timeout`.
    ///
    /// # Errors
    /// When the byte stream has ended a while ago: none can come, and who had one knows why.
    pub(super) fn accept(&self, timeout: Duration) -> io::Result<Option<Arc<Stream>>> {
        /// How long readers of streams have to notice the end, before it is the listener's.
        const GRACE: Duration = Duration::from_secs(2);
        let until = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(stream) = state.new.pop_front() {
                return Ok(Some(stream));
            }
            let mut left = until.saturating_duration_since(Instant::now());
            if let Some((at, why)) = &state.end {
                let grace = GRACE.saturating_sub(at.elapsed());
                if grace.is_zero() {
                    return Err(self.failed(io::ErrorKind::ConnectionAborted, why));
                }
                left = left.min(grace);
            }
            if left.is_zero() {
                return Ok(None);
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends `frame` and `body` when it is this writer's turn.
    ///
    /// # Errors
    /// When the byte stream is lost.
    pub(super) fn send(&self, frame: Frame, body: &[u8], urgency: Urgency) -> io::Result<()> {
        self.turn.take(urgency);
        let sent = self.bytes.write_all(&frame.encode(), body, None);
        self.pass(None);
        if let Err(error) = &sent {
            self.end(&error.to_string());
        }
        sent
    }

    /// Has `frame`, which has no body, sent by whoever writes next.
    pub(super) fn leave(&self, frame: Frame) {
        self.leave_within(frame, None);
    }

    /// The same; if it is this thread that writes, for no longer than `patience`.
    fn leave_within(&self, frame: Frame, patience: Option<Duration>) {
        if self.turn.leave(frame.encode()) {
            self.pass(patience);
        }
    }

    /// Writes what is owed, and passes the turn on.
    fn pass(&self, patience: Option<Duration>) {
        let mut owed = Vec::new();
        while !self.turn.pass(&mut owed) {
            for head in owed.drain(..) {
                if let Err(error) = self.bytes.write_all(&head, &[], patience) {
                    self.end(&error.to_string());
                }
            }
        }
    }

    /// Closes a stream, from any thread. If a frame of it is being written, nobody may be reading at
    /// the other end, and the frame cannot be left unfinished: all ends.
    pub(super) fn close(&self, stream: &Arc<Stream>) {
        if self.lock().open.remove(&stream.number).is_none() {
            return;
        }
        if stream.end(End::Here) {
            self.end("it was closed in the middle of a frame");
        } else {
            let stream = stream.number;
            self.leave_within(Frame::Close { stream }, Some(CLOSE_PATIENCE));
        }
    }

    /// Ends the byte stream and all its streams.
    pub(super) fn end(&self, why: &str) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some((Instant::now(), why.to_owned()));
        }
        let open = std::mem::take(&mut state.open);
        drop(state);
        self.changed.notify_all();
        for stream in open.values() {
            stream.end(End::Lost(format!("{}: {why}", self.name())));
        }
        self.bytes.end();
    }

    /// Reads until the end.
    fn run(&self) {
        let why = match self.read_on() {
            Ok(()) => "the other side has closed it".to_owned(),
            Err(error) => error.to_string(),
        };
        match self.bytes.carrier_end() {
            Some(how) => self.end(&how),
            None => self.end(&why),
        }
    }

    fn read_on(&self) -> io::Result<()> {
        let mut preface = [0; PREFACE.len()];
        if !self.bytes.read_exact(&mut preface)? {
            return Ok(());
        }
        if preface != PREFACE {
            return Err(misbehaved(&format!(
                "{:?} at first, which is not pagelift; does a shell there print something when it \
                 starts?",
                String::from_utf8_lossy(&preface)
            )));
        }
        self.lock().is_greeted = true;
        self.changed.notify_all();
        let mut unwanted = Vec::new();
        let mut head = [0; HEAD_BYTES];
        while self.bytes.read_exact(&mut head)? {
            match Frame::decode(head)? {
                Frame::Data { stream, length } => match self.stream(stream) {
                    Some(stream) => {
                        let mut slot = stream.take_slot(length)?;
                        self.fill(slot.extend(length))?;
                        stream.put_slot(slot);
                    }
                    // It was closed here, which the other side does not know yet.
                    None => {
                        unwanted.resize(SLICE_BYTES, 0);
                        self.fill(&mut unwanted[..length])?;
                    }
                },
                Frame::Credit { stream, bytes } => {
                    self.stream(stream)
                        .map_or(Ok(()), |stream| stream.grant(bytes))?;
                }
                Frame::Open { stream } => self.opened(stream)?,
                Frame::Close { stream } => {
                    if let Some(stream) = self.lock().open.remove(&stream) {
                        stream.end(End::There);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the body of a frame.
    fn fill(&self, out: &mut [u8]) -> io::Result<()> {
        match self.bytes.read_exact(out)? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The other side has opened a stream.
    fn opened(&self, number: u16) -> io::Result<()> {
        let mut state = self.lock();
        if self.side == Side::Source || state.open.len() >= MAX_STREAMS {
            return Err(misbehaved("a connection too many"));
        }
        let stream = Arc::new(Stream::new(number));
        if state.open.insert(number, Arc::clone(&stream)).is_some() {
            return Err(misbehaved("the same connection twice"));
        }
        state.new.push_back(stream);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    fn stream(&self, number: u16) -> Option<Arc<Stream>> {
        self.lock().open.get(&number).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, kind: io::ErrorKind, why: &str) -> io::Error {
        io::Error::new(kind, format!("{}: {why}", self.name()))
    }
}
