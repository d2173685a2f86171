//! Strangers at the target's door: connections that say nothing, garbage, half of a greeting, or that
//! they belong to the migration; and so many of them that there is no room.
//!
//! Where the transport authenticates, a silent one has not come through its handshake, and the others
//! were let in, with an identity of their own; they have been shown the session's number. Where it does
//! not, nobody else knows that number. Whoever knows it is the source there, and is no stranger.

use std::time::Duration;

use bytes::Bytes;
use pagelift_engine::transport::{Connection, PeerIdentity};
use pagelift_engine::units::Instant;
use pagelift_engine::wire::{Join, Message, PREFACE, Reattach, SessionId};
use pagelift_transports::sim::{SimNetwork, SimRng};

use super::forger::made;
use super::truth::Truth;

/// More than may be open at a time.
const CROWD: usize = 80;

/// What one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    Silent,
    Garbage,
    HalfGreeting,
    /// That it is a data channel of the migration.
    Join,
    /// That it takes the place of the control connection.
    Reattach,
    /// What the source has said on its first connections, in an earlier migration.
    Replay,
    Crowd,
}

/// Visits that are to come, and those that stay.
#[derive(Debug)]
pub struct Strangers {
    waiting: Vec<(Instant, Visit)>,
    network: SimNetwork,
    session: SessionId,
    authenticated: bool,
    /// What the source said on each connection of an earlier migration.
    earlier: Vec<Vec<u8>>,
    rng: SimRng,
    open: Vec<Connection>,
    came: bool,
}

impl Strangers {
    pub fn new(
        planned: &[(Duration, Visit)],
        now: Instant,
        network: SimNetwork,
        session: SessionId,
        earlier: Vec<Vec<u8>>,
        rng: SimRng,
    ) -> Self {
        let waiting = planned
            .iter()
            .map(|(time, visit)| (now.after(*time), *visit));
        Self {
            waiting: waiting.collect(),
            authenticated: network.authenticates(),
            network,
            session,
            earlier,
            rng,
            open: Vec::new(),
            came: false,
        }
    }

    /// Whether one has come.
    pub fn have_come(&self) -> bool {
        self.came
    }

    pub fn next_event(&self, now: Instant) -> Option<Instant> {
        let due = self.waiting.iter().map(|(due, _)| *due);
        // The source makes the first connection.
        let may_come = self.network.connections() > 0;
        due.filter(|due| may_come && *due > now).min()
    }

    /// Those come who are due; `greeted` says that the target knows its source. The first to greet
    /// would be the source, and a greeting is what is said again.
    pub fn come(&mut self, truth: &Truth, greeted: bool) {
        let now = truth.now();
        let may_come =
            |(due, visit): &(Instant, Visit)| *due <= now && (greeted || *visit != Visit::Replay);
        while self.network.connections() > 0
            && let Some(at) = self.waiting.iter().position(may_come)
        {
            let (_, visit) = self.waiting.remove(at);
            truth.note(|| format!("stranger: {visit:?}"));
            self.visit(visit);
        }
    }

    fn visit(&mut self, visit: Visit) {
        match visit {
            Visit::Silent => self.open(None).map_or((), |open| self.open.push(open)),
            Visit::Crowd => (0..CROWD).for_each(|_| self.visit(Visit::Silent)),
            Visit::Garbage => {
                let words = (0..self.rng.between(1, 400)).map(|_| self.rng.u64().to_le_bytes());
                let bytes = words.flatten().collect();
                self.say(bytes);
            }
            Visit::HalfGreeting => {
                let mut bytes = PREFACE.to_vec();
                bytes.extend(made(&self.join()));
                bytes.truncate(self.rng.between(1, bytes.len() as u64 - 1) as usize);
                self.say(bytes);
            }
            Visit::Join => {
                let join = made(&self.join());
                self.greet(join);
            }
            Visit::Reattach => {
                let reattach = Message::Reattach(Reattach {
                    session: self.shown_session(),
                    proof: self.proof(),
                });
                self.greet(made(&reattach));
            }
            Visit::Replay => {
                for bytes in self.earlier.clone() {
                    self.say(bytes);
                }
            }
        }
    }

    fn join(&mut self) -> Message {
        Message::Join(Join {
            session: self.shown_session(),
            channel: self.rng.below(8) as u16,
            proof: self.proof(),
        })
    }

    fn shown_session(&mut self) -> SessionId {
        match self.authenticated {
            true => self.session,
            false => SessionId(self.rng.u64().into()),
        }
    }

    fn proof(&mut self) -> Option<[u8; 32]> {
        self.authenticated.then(|| [self.rng.below(256) as u8; 32])
    }

    fn greet(&mut self, frame: Vec<u8>) {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame);
        self.say(bytes);
    }

    /// One of those who were let in, where that matters.
    fn say(&mut self, bytes: Vec<u8>) {
        let identity = self.authenticated.then_some(PeerIdentity([7; 32]));
        let Some(mut connection) = self.open(identity) else {
            return;
        };
        // It may be refused in the middle.
        let _ = connection.tx.send(Bytes::from(bytes));
        match self.rng.one_in(3) {
            true => connection.closer.close(),
            false => self.open.push(connection),
        }
    }

    fn open(&mut self, identity: Option<PeerIdentity>) -> Option<Connection> {
        self.came = true;
        let host = format!(
            "198.51.100.{}:{}",
            self.rng.below(3),
            self.rng.below(60_000)
        );
        self.network.stranger(&host, identity).ok()
    }
}
