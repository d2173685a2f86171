//! One connection: its thread reads messages, hands out calls, sends answers, and asks a silent client
//! whether it is there.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pagelift_rpc::frame::{BadLength, FrameReader};
use pagelift_rpc::message::{KEEPALIVE_PROGRAM, Kind, Message, PING, PONG, PROGRAM_VERSION};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::calls::Calls;
use super::keepalive::{Due, Keepalive};
use super::limits::Slot;
use super::listener::Accepted;
use super::outbox::{End, Outbox};
use super::stream::Stream;
use crate::daemon::Daemon;
use crate::session::Session;

/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Why {
    /// The client closed it, or asked for it.
    Closed,
    /// A length was wrong.
    BadLength(BadLength),
    /// The client did not open a driver in time.
    NotOpened,
    /// The client does not answer.
    Silent,
    /// All clients together hold too much memory.
    TooMuchHeld,
    /// The network, or TLS.
    Io(io::Error),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::BadLength(error) => error.fmt(f),
            Self::NotOpened => f.write_str("no driver was opened in time"),
            Self::Silent => f.write_str("keepalive timeout"),
            Self::TooMuchHeld => f.write_str("clients hold too much memory"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// A connection that is served.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    slot: Slot,
    outbox: Arc<Outbox>,
    session: Arc<Session>,
    calls: Arc<Calls>,
    frames: FrameReader,
    /// The message that is being sent, and how much of it was.
    sending: Option<(Vec<u8>, usize)>,
    ping_after: Option<Duration>,
    ping_count: u32,
    /// From when on the client said that it can answer.
    keepalive: Option<Keepalive>,
    open_until: Instant,
}

impl Connection {
    pub(super) fn new(
        id: u64,
        daemon: &Arc<Daemon>,
        accepted: Accepted,
        outbox: Arc<Outbox>,
        slot: Slot,
    ) -> Self {
        let Accepted {
            stream,
            peer,
            read_only,
        } = accepted;
        let session = Session::new(id, peer, read_only, Arc::clone(&outbox));
        let session = Arc::new(session);
        let limits = slot.limits();
        let calls = Calls::new(
            Arc::clone(daemon),
            Arc::clone(&session),
            Arc::clone(&outbox),
            limits.running_calls,
        );
        let keepalive = &daemon.config().keepalive;
        Self {
            stream,
            frames: FrameReader::new(limits.message_bytes),
            open_until: Instant::now() + Duration::from_secs(limits.open_seconds),
            slot,
            outbox,
            session,
            calls: Arc::new(calls),
            sending: None,
            ping_after: keepalive.interval(),
            ping_count: keepalive.count,
            keepalive: None,
        }
    }

    /// Serves until the connection has ended, and then undoes what was to be undone.
    pub(super) fn run(mut self) -> Why {
        let mut buffer = vec![0; READ_BYTES];
        let why = loop {
            if let Err(why) = self.step(&mut buffer) {
                break why;
            }
        };
        self.outbox.close();
        self.calls.end();
        drop(self.stream);
        self.session.end();
        why
    }

    /// Sends, waits, reads.
    fn step(&mut self, buffer: &mut [u8]) -> Result<(), Why> {
        self.outbox.woken();
        let blocked = self.send()?;
        let until = self.due()?;
        if self.session.is_open() {
            self.slot.opened();
        }
        let (waiting, mut bytes) = self.calls.held();
        bytes += self.outbox.held()
            + self
                .sending
                .as_ref()
                .map_or(0, |(message, _)| message.len());
        if !self.slot.holds(bytes + self.frames.held()) && self.frames.held() > READ_BYTES {
            return Err(Why::TooMuchHeld);
        }
        let reads = waiting < self.slot.limits().waiting_calls;
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, reads);
        wanted.set(PollFlags::OUT, blocked);
        let mut fds = [
            PollFd::new(&self.stream, wanted),
            PollFd::new(&*self.outbox, PollFlags::IN),
        ];
        match poll(&mut fds, until.map(timeout).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Why::Io(error.into())),
        }
        let ready = fds[0].revents();
        if ready.contains(PollFlags::IN) || !reads && ready.contains(PollFlags::HUP) {
            self.receive(buffer)?;
        } else if ready.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Err(Why::Closed);
        }
        Ok(())
    }

    /// Sends what there is; whether more is there than was taken.
    fn send(&mut self) -> Result<bool, Why> {
        // Also while a message cannot be sent to its end.
        if self.outbox.is_closed() {
            return Err(Why::Closed);
        }
        loop {
            if self.sending.is_none() {
                let (message, end) = self.outbox.next();
                match (message, end) {
                    (_, End::Closed) => return Err(Why::Closed),
                    (Some(message), _) => self.sending = Some((message, 0)),
                    (None, End::Closing) => {
                        return match self.stream.flush() {
                            Ok(true) => Ok(true),
                            Ok(false) => Err(Why::Closed),
                            Err(error) => Err(Why::Io(error)),
                        };
                    }
                    (None, End::Open) => return self.stream.flush().map_err(Why::Io),
                }
            }
            let Some((message, sent)) = &mut self.sending else {
                continue;
            };
            match self.stream.write(&message[*sent..]) {
                Ok(taken) => *sent += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Why::Io(error)),
            }
            if *sent == message.len() {
                self.sending = None;
            }
        }
    }

    /// Until when nothing is due; asks the client when that is.
    fn due(&mut self) -> Result<Option<Instant>, Why> {
        let now = Instant::now();
        if !self.slot.is_opened() && !self.session.is_open() {
            if now >= self.open_until {
                return Err(Why::NotOpened);
            }
            return Ok(Some(self.open_until));
        }
        let Some(keepalive) = &mut self.keepalive else {
            return Ok(None);
        };
        match keepalive.poll(now) {
            Due::At(next) => Ok(Some(next)),
            Due::Dead => Err(Why::Silent),
            Due::Ping => {
                self.outbox.post(&Message::keepalive(PING));
                Ok(Some(now))
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<(), Why> {
        let count = match self.stream.read(buffer) {
            Ok(0) => return Err(Why::Closed),
            Ok(count) => count,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
                    _ => Err(Why::Io(error)),
                };
            }
        };
        if let Some(keepalive) = &mut self.keepalive {
            keepalive.heard(Instant::now());
        }
        self.frames.push(&buffer[..count]);
        while let Some(message) = self.frames.next_message().map_err(Why::BadLength)? {
            self.take(message);
        }
        Ok(())
    }

    fn take(&mut self, message: Message) {
        let header = message.header;
        if (header.program, header.version) == (KEEPALIVE_PROGRAM, PROGRAM_VERSION) {
            if header.kind == Kind::Message && header.procedure == PING {
                self.outbox.post(&Message::keepalive(PONG));
            }
            return;
        }
        // What is no call is an answer to nothing, or part of a stream that is not there.
        if !matches!(header.kind, Kind::Call | Kind::CallWithFds) {
            return;
        }
        if let Some(interval) = self.ping_after
            && self.keepalive.is_none()
            && crate::dispatch::asks_for_keepalive(&message)
        {
            self.keepalive = Some(Keepalive::new(interval, self.ping_count, Instant::now()));
        }
        self.calls.take(message);
    }
}

fn timeout(until: Instant) -> Timespec {
    let left = until.saturating_duration_since(Instant::now());
    // A year is as good as longer.
    let left = left.min(Duration::from_secs(365 * 24 * 3600));
    Timespec {
        tv_sec: left.as_secs().cast_signed(),
        tv_nsec: left.subsec_nanos().into(),
    }
}
