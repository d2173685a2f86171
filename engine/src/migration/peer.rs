//! The other side, as a machine knows it: whether it is still there, and what it is to be told.

use std::collections::VecDeque;

use super::PEER_SILENCE;
use super::error::MigrationError;
use super::liveness::{Liveness, Verdict};
use crate::units::Instant;
use crate::wire::Message;

/// The control connection's other end.
#[derive(Debug)]
pub(super) struct Peer {
    liveness: Liveness,
    /// Messages that are still to leave.
    out: VecDeque<Message>,
}

impl Peer {
    /// Known to be there at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            liveness: Liveness::new(now),
            out: VecDeque::new(),
        }
    }

    /// Queues a message.
    pub(super) fn send(&mut self, now: Instant, message: Message) {
        self.liveness.sent(now);
        self.out.push_back(message);
    }

    /// The next message to leave.
    pub(super) fn next_message(&mut self) -> Option<Message> {
        self.out.pop_front()
    }

    /// Something came in, so it is there.
    pub(super) fn heard(&mut self, now: Instant) {
        self.liveness.heard(now);
    }

    /// It is there again, over a new connection: messages for the old one are dropped.
    pub(super) fn reconnected(&mut self, now: Instant) {
        self.out.clear();
        self.liveness.heard(now);
    }

    /// Time has passed: pings where that is due.
    ///
    /// # Errors
    /// When a ping was not answered within [`PEER_SILENCE`].
    pub(super) fn check(&mut self, now: Instant) -> Result<(), MigrationError> {
        match self.liveness.check(now) {
            Verdict::Alive => {}
            Verdict::PingDue => self.send(now, Message::Ping),
            Verdict::Dead => {
                return Err(MigrationError::PeerSilent {
                    seconds: PEER_SILENCE.as_secs(),
                });
            }
        }
        Ok(())
    }
}
