//! Connections between two simulated sides, and what can go wrong with them.

mod ends;
mod one_sided;
mod peers;

pub use ends::{SimLink, SimListener};

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pagelift_engine::pipeline::Clock;
use pagelift_engine::transport::{Closer, Connection, Expose, PeerIdentity, WriteHalf};
use pagelift_engine::units::{ByteCount, Instant, Rate};

use self::ends::{SimHalf, SimStream};
use self::one_sided::{Exposed, SimExposure};
use self::peers::Opener;
use super::pipe::Pipe;
use super::{SimClock, SimRng};

/// How a network carries bytes.
#[derive(Clone, Copy, Debug)]
pub struct NetworkConfig {
    /// Rate that all connections of one direction share.
    pub rate: Rate,
    /// Time a byte is under way; each connection adds up to half of it, by chance.
    pub latency: Duration,
    /// Time that each piece is late by at most. Order within a connection is kept.
    pub jitter: Duration,
    /// Bytes that may be under way on one connection before it has no room.
    pub buffer_bytes: u64,
    /// Bytes that arrive together at most: larger writes arrive in pieces.
    pub piece_bytes: usize,
    /// Whether pages can be placed in the target's memory past the target.
    pub one_sided: bool,
}

/// The way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the side that connects.
    ToTarget = 0,
    /// To the side that connects.
    ToSource = 1,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub fn back(self) -> Self {
        match self {
            Self::ToTarget => Self::ToSource,
            Self::ToSource => Self::ToTarget,
        }
    }
}

/// A connection, by the order in which they were made, from 0.
pub type ConnectionId = usize;

/// A network between one source and one target. Clones are the same network.
#[derive(Clone, Debug)]
pub struct SimNetwork(Arc<Mutex<Net>>);

#[derive(Debug)]
struct Net {
    clock: SimClock,
    config: NetworkConfig,
    /// What the link is capped at.
    cap: Option<Rate>,
    rng: SimRng,
    /// When each direction has sent everything it was given.
    free_at: [Instant; 2],
    connections: Vec<Wire>,
    /// Connections that arrive at the listener, and when.
    arriving: VecDeque<(Instant, ConnectionId)>,
    refused_until: Instant,
    /// Whether it is known who is at the other end of a connection.
    authenticates: bool,
}

impl Net {
    /// The rate that all connections of one direction share now.
    fn rate(&self) -> Rate {
        self.cap
            .map_or(self.config.rate, |cap| cap.min(self.config.rate))
    }
}

#[derive(Debug)]
struct Wire {
    pipes: [Pipe; 2],
    latency: Duration,
    exposed: Exposed,
    /// Who has opened it.
    opener: Opener,
}

impl SimNetwork {
    /// A healthy network; `rng` decides its jitter.
    pub fn new(config: NetworkConfig, clock: SimClock, rng: SimRng) -> Self {
        Self(Arc::new(Mutex::new(Net {
            clock,
            config,
            cap: None,
            rng,
            free_at: [Instant::default(); 2],
            connections: Vec::new(),
            arriving: VecDeque::new(),
            refused_until: Instant::default(),
            authenticates: true,
        })))
    }

    /// The same network, whose transport authenticates nobody.
    #[must_use]
    pub fn without_authentication(self) -> Self {
        self.lock().authenticates = false;
        self
    }

    /// Whether each side knows who the other one is.
    pub fn authenticates(&self) -> bool {
        self.lock().authenticates
    }

    /// A link through it, for the source.
    pub fn link(&self) -> SimLink {
        SimLink(self.clone())
    }

    /// A listener on it, for the target.
    pub fn listener(&self) -> SimListener {
        SimListener(self.clone())
    }

    /// How many connections there have been: the number of the next one.
    pub fn connections(&self) -> usize {
        self.lock().connections.len()
    }

    /// Whether a writer may be stepped: its connection takes more, or would fail at once.
    pub fn has_room(&self, id: ConnectionId, direction: Direction) -> bool {
        let net = self.lock();
        let limit = net.config.buffer_bytes;
        net.connections
            .get(id)
            .is_none_or(|wire| wire.pipes[direction as usize].under_way() < limit)
    }

    /// The next moment at which something arrives that has not arrived yet.
    pub fn next_event(&self) -> Option<Instant> {
        let net = self.lock();
        let now = net.clock.now();
        let pipes = net.connections.iter().flat_map(|wire| &wire.pipes);
        pipes
            .filter_map(|pipe| pipe.next_event(now))
            .chain(
                net.arriving
                    .front()
                    .map(|(at, _)| *at)
                    .filter(|at| *at > now),
            )
            .min()
    }

    /// Connections that carry bytes in both directions.
    pub fn open(&self) -> Vec<ConnectionId> {
        let net = self.lock();
        let wires = net.connections.iter().enumerate();
        wires
            .filter(|(_, wire)| wire.pipes.iter().all(Pipe::is_open))
            .map(|(id, _)| id)
            .collect()
    }

    // --- faults --------------------------------------------------------------------------

    /// The connection breaks: both sides fail at once, and what is under way is lost.
    pub fn reset(&self, id: ConnectionId) {
        if let Some(wire) = self.lock().connections.get_mut(id) {
            wire.pipes.iter_mut().for_each(Pipe::reset);
        }
    }

    /// One direction ends: its reader finds the end after what is under way, its writer fails.
    pub fn half_close(&self, id: ConnectionId, direction: Direction) {
        let mut net = self.lock();
        let now = net.clock.now();
        if let Some(wire) = net.connections.get_mut(id) {
            wire.pipes[direction as usize].end(now.after(wire.latency));
        }
    }

    /// Nothing arrives on the connection before `until`: a spike, or a black hole for a time or
    /// (`Instant(u64::MAX)`) for ever. Nothing is lost, as nothing is on TCP.
    pub fn hold(&self, id: ConnectionId, until: Instant) {
        let mut net = self.lock();
        let now = net.clock.now();
        if let Some(wire) = net.connections.get_mut(id) {
            for pipe in &mut wire.pipes {
                pipe.hold(now, until);
            }
        }
    }

    /// Flips a bit of a byte under way, or of the next one.
    pub fn corrupt(&self, id: ConnectionId, direction: Direction) {
        let mut net = self.lock();
        let (now, place) = (net.clock.now(), net.rng.u64());
        if let Some(wire) = net.connections.get_mut(id) {
            wire.pipes[direction as usize].damage(now, place);
        }
    }

    /// New connections are refused before `until`.
    pub fn refuse_until(&self, until: Instant) {
        let mut net = self.lock();
        net.refused_until = net.refused_until.max(until);
    }

    // --- carrying ------------------------------------------------------------------------

    /// Somebody at `address` who is not the source connects to the listener; with an `identity`, if
    /// the transport authenticates and has let them in. Without one they stay in its handshake.
    ///
    /// # Errors
    /// When connections are refused.
    pub fn stranger(
        &self,
        address: &str,
        identity: Option<PeerIdentity>,
    ) -> io::Result<Connection> {
        let address = address.to_owned();
        self.connect(Opener::Stranger { address, identity })
    }

    fn connect(&self, opener: Opener) -> io::Result<Connection> {
        let mut net = self.lock();
        let now = net.clock.now();
        if now < net.refused_until {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let latency = net.config.latency;
        let latency = latency + net.rng.time(latency / 2);
        let id = net.connections.len();
        net.connections.push(Wire {
            pipes: Default::default(),
            latency,
            exposed: Exposed::default(),
            opener,
        });
        let last = net.arriving.back().map_or(now, |(at, _)| *at);
        net.arriving.push_back((now.after(latency).max(last), id));
        drop(net);
        Ok(self.end(id, Direction::ToTarget))
    }

    fn accept(&self) -> Option<Connection> {
        let mut net = self.lock();
        let now = net.clock.now();
        if net.arriving.front().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (_, id) = net.arriving.pop_front()?;
        drop(net);
        Some(self.end(id, Direction::ToSource))
    }

    /// One side's end of a connection: it writes in `direction`.
    fn end(&self, id: ConnectionId, direction: Direction) -> Connection {
        let half = |direction| SimStream {
            network: self.clone(),
            id,
            direction,
        };
        let network = self.clone();
        let is_one_sided = self.lock().config.one_sided;
        Connection {
            tx: Box::new(SimHalf(WriteHalf::new(half(direction)))),
            rx: Box::new(half(direction.back())),
            closer: Closer::new(move || network.close(id, direction)),
            peer: self.peer(id, direction),
            one_sided: (is_one_sided && direction == Direction::ToSource).then(|| {
                let network = self.clone();
                Box::new(SimExposure { network, id }) as Box<dyn Expose>
            }),
        }
    }

    fn close(&self, id: ConnectionId, direction: Direction) {
        let mut net = self.lock();
        let now = net.clock.now();
        if let Some(wire) = net.connections.get_mut(id) {
            let noticed = now.after(wire.latency);
            wire.pipes[direction as usize].end(noticed);
            wire.pipes[direction.back() as usize].stop_reading(noticed);
        }
    }

    fn write(&self, id: ConnectionId, direction: Direction, bytes: &[u8]) -> io::Result<()> {
        let mut net = self.lock();
        let net = &mut *net;
        let (now, rate) = (net.clock.now(), net.rate());
        let Some(wire) = net.connections.get_mut(id) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let pipe = &mut wire.pipes[direction as usize];
        let free_at = &mut net.free_at[direction as usize];
        for piece in bytes.chunks(net.config.piece_bytes.max(1)) {
            let time = ByteCount(piece.len() as u64).time_at(rate);
            let left = (*free_at).max(now).after(time.unwrap_or_default());
            let late = wire.latency + net.rng.time(net.config.jitter);
            pipe.write(now, left.after(late), piece)?;
            *free_at = left;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
