//! Finds the frames in the bytes of a connection, for the watcher.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pagelift_engine::transport::{
    Closer, Connection, Link, Listener, RateCapped, Role, SendHalf, SendStats,
};
use pagelift_engine::units::{PageIndex, PageRange, Rate};
use pagelift_engine::wire::{FrameType, HEADER_BYTES, MAX_BODY_BYTES, PREFACE};
use pagelift_transports::sim::{ConnectionId, SimLink, SimListener, SimNetwork};

use super::forger::{Forger, Stream};
use super::memory::Side;
use super::watcher::Watcher;

/// Bytes of a body that are looked at; enough for all messages that matter here.
const LOOKED_AT: usize = 128;

/// Finds the frames in a stream of bytes.
#[derive(Debug)]
struct Frames {
    head: Vec<u8>,
    /// Preface bytes, then header bytes, that `head` is to be filled up to.
    wanted: usize,
    kind: Option<FrameType>,
    body_left: usize,
    body: Vec<u8>,
    /// The stream makes no sense any more.
    lost: bool,
}

impl Frames {
    fn new() -> Self {
        Self {
            head: Vec::new(),
            wanted: PREFACE.len(),
            kind: None,
            body_left: 0,
            body: Vec::new(),
            lost: false,
        }
    }

    fn feed(&mut self, mut bytes: &[u8], mut frame: impl FnMut(FrameType, &[u8])) {
        while !bytes.is_empty() && !self.lost {
            if self.body_left == 0 {
                let count = (self.wanted - self.head.len()).min(bytes.len());
                self.head.extend_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                if self.head.len() == self.wanted && !self.begin_body() {
                    continue;
                }
            } else {
                let count = self.body_left.min(bytes.len());
                let look = LOOKED_AT.saturating_sub(self.body.len()).min(count);
                self.body.extend_from_slice(&bytes[..look]);
                self.body_left -= count;
                bytes = &bytes[count..];
            }
            if self.body_left == 0
                && let Some(kind) = self.kind.take()
            {
                frame(kind, &self.body);
            }
        }
    }

    /// The head is whole; whether it was that of a frame.
    fn begin_body(&mut self) -> bool {
        let head = std::mem::take(&mut self.head);
        if std::mem::replace(&mut self.wanted, HEADER_BYTES) != HEADER_BYTES {
            return false;
        }
        let kind = u16::from_le_bytes([head[0], head[1]]);
        self.kind = FrameType::from_wire(kind);
        self.body_left = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        self.body.clear();
        self.lost = self.kind.is_none() || self.body_left > MAX_BODY_BYTES;
        true
    }
}

struct TapWriter {
    inner: Box<dyn SendHalf>,
    watcher: Arc<Watcher>,
    side: Side,
    id: ConnectionId,
    frames: Frames,
    forger: Arc<Forger>,
    stream: Stream,
    closer: Closer,
}

impl TapWriter {
    fn watch(&mut self, bytes: &[u8]) {
        let (watcher, side, id) = (&self.watcher, self.side, self.id);
        if side == Side::Source {
            watcher.record(id, bytes);
        }
        self.frames
            .feed(bytes, |kind, body| watcher.wrote(side, id, kind, body));
    }
}

impl SendHalf for TapWriter {
    fn lend(&mut self) -> io::Result<BytesMut> {
        self.inner.lend()
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.forger.is_idle() {
            self.inner.send(bytes.clone())?;
            self.watch(&bytes);
            return Ok(());
        }
        self.watch(&bytes);
        let (forged, is_cut) = self.forger.pass(self.side, &mut self.stream, &bytes);
        self.inner.send(Bytes::from(forged))?;
        if is_cut {
            self.closer.close();
        }
        Ok(())
    }

    fn give_back(&mut self, buffer: Bytes) {
        self.inner.give_back(buffer);
    }

    fn stats(&mut self) -> SendStats {
        self.inner.stats()
    }

    fn is_one_sided(&self) -> bool {
        self.inner.is_one_sided()
    }

    fn can_place(&mut self, runs: &[PageRange]) -> io::Result<bool> {
        self.inner.can_place(runs)
    }

    fn place(&mut self, first: PageIndex, pages: Bytes) -> io::Result<()> {
        self.inner.place(first, pages)
    }
}

struct TapReader {
    inner: Box<dyn Read + Send>,
    watcher: Arc<Watcher>,
    side: Side,
    id: ConnectionId,
    frames: Frames,
}

impl Read for TapReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        let (watcher, side, id) = (&self.watcher, self.side, self.id);
        self.frames.feed(&out[..count], |kind, body| {
            watcher.read(side, id, kind, body);
        });
        Ok(count)
    }
}

fn tapped(
    (watcher, forger): (&Arc<Watcher>, &Arc<Forger>),
    side: Side,
    id: ConnectionId,
    plain: Connection,
) -> Connection {
    Connection {
        tx: Box::new(TapWriter {
            inner: plain.tx,
            watcher: Arc::clone(watcher),
            side,
            id,
            frames: Frames::new(),
            forger: Arc::clone(forger),
            stream: Stream::default(),
            closer: plain.closer.clone(),
        }),
        rx: Box::new(TapReader {
            inner: plain.rx,
            watcher: Arc::clone(watcher),
            side,
            id,
            frames: Frames::new(),
        }),
        closer: plain.closer,
        peer: plain.peer,
        one_sided: plain.one_sided,
    }
}

/// A link whose connections are watched.
#[derive(Debug)]
pub struct TapLink {
    pub link: SimLink,
    pub network: SimNetwork,
    pub watcher: Arc<Watcher>,
    pub forger: Arc<Forger>,
}

impl Link for TapLink {
    fn connect(&self, role: Role) -> io::Result<Connection> {
        let id = self.network.connections();
        let plain = self.link.connect(role)?;
        let taps = (&self.watcher, &self.forger);
        Ok(tapped(taps, Side::Source, id, plain))
    }
}

impl RateCapped for TapLink {
    fn set_rate(&self, cap: Option<Rate>) {
        self.link.set_rate(cap);
    }
}

/// A listener whose connections are watched. They come in the order in which they were made.
#[derive(Debug)]
pub struct TapListener {
    pub listener: SimListener,
    pub watcher: Arc<Watcher>,
    pub forger: Arc<Forger>,
    pub accepted: Mutex<ConnectionId>,
}

impl Listener for TapListener {
    fn accept(&self, timeout: Duration) -> io::Result<Option<Connection>> {
        let Some(plain) = self.listener.accept(timeout)? else {
            return Ok(None);
        };
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *accepted;
        *accepted += 1;
        let taps = (&self.watcher, &self.forger);
        Ok(Some(tapped(taps, Side::Target, id, plain)))
    }

    fn address(&self) -> String {
        self.listener.address()
    }
}
