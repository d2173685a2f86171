//! The control connection of a target: its messages, and a source that says nothing.
//!
//! What a lost connection means once the target has said that it is ready is in
//! [`bound`](super::bound).

use super::compatibility::differences;
use super::{Channel, State, Target};
use crate::migration::error::{MigrationError, misbehaved};
use crate::migration::liveness::Verdict;
use crate::migration::ownership::Granted;
use crate::migration::{IN_DOUBT, PEER_SILENCE};
use crate::units::Instant;
use crate::wire::{Hello, Message, Refuse, StateChunk};

impl Target {
    /// Takes a message from the control connection. A piece of the guest's device state is
    /// handed through.
    ///
    /// # Errors
    /// When the message ends the migration: an abort, a guest that does not fit, or a message
    /// that must not come now. The caller passes the error to [`fail`](Self::fail).
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<Option<StateChunk>, MigrationError> {
        self.heard(now);
        match (message, self.state) {
            (Message::Ping, _) => self.say(now, Message::Pong),
            (Message::Pong, _) => {}
            (Message::Abort { code, reason }, _) => {
                self.kept_by_source = !self.owns_guest;
                return Err(MigrationError::PeerAborted { code, reason });
            }
            (Message::Hello(hello), State::Greeting) => self.greet(hello)?,
            (Message::LastRound { round }, State::Receiving) => {
                // On its own connection the news may come after all pages of that round.
                let over = round < self.rounds_ended.max(1);
                if self.last_round.replace(round).is_some() || over {
                    return Err(misbehaved("a last round that is over, or a second one"));
                }
                self.settle_rounds()?;
            }
            (Message::State(chunk), phase) if phase >= State::Receiving => {
                return Ok(Some(chunk));
            }
            (Message::HandOver, State::Ready) => {
                self.state = State::Starting;
                self.owns_guest = true;
                self.granted = Some(Granted(()));
            }
            // The source did not get the answer, and asked again after a reattach.
            (Message::HandOver, State::Starting) => {}
            (Message::HandOver, State::Running) => self.say_running(now),
            (Message::Settled, State::Running) => self.settled = true,
            (message, phase) => {
                return Err(misbehaved(&format!("{:?} while {phase:?}", message.kind())));
            }
        }
        Ok(None)
    }

    /// Compares the source's guest with this side's, and refuses with every difference.
    fn greet(&mut self, hello: Hello) -> Result<(), MigrationError> {
        let reasons = differences(&hello, &self.config);
        if !reasons.is_empty() {
            self.out.push_back(Message::Refuse(Refuse {
                reasons: reasons.clone(),
            }));
            return Err(MigrationError::Refused { reasons });
        }
        self.channels = vec![Channel::default(); usize::from(hello.channels)];
        self.hello = Some(hello);
        self.state = State::Preparing;
        Ok(())
    }

    /// Time has passed.
    ///
    /// # Errors
    /// When the source is silent for too long, or a lost hand-over is not asked for any more.
    pub fn handle_time(&mut self, now: Instant) -> Result<(), MigrationError> {
        if self.is_over() || matches!(self.state, State::Greeting | State::Starting) {
            return Ok(());
        }
        if let Some(ends) = self.in_doubt_until {
            if now >= ends {
                // At once, so that a source that asks in this very moment is not listened to.
                let why = "the source did not ask again in time";
                self.end(MigrationError::InDoubt(why.into()));
            }
            return Ok(());
        }
        match self.liveness.check(now) {
            Verdict::Alive => {}
            Verdict::PingDue => self.say(now, Message::Ping),
            Verdict::Dead if self.is_prepared() => self.in_doubt_until = Some(now.after(IN_DOUBT)),
            Verdict::Dead => {
                return Err(MigrationError::PeerSilent {
                    seconds: PEER_SILENCE.as_secs(),
                });
            }
        }
        Ok(())
    }

    /// A source that is known to be there: this side has no room for what it says.
    pub fn heard(&mut self, now: Instant) {
        self.liveness.heard(now);
        self.in_doubt_until = None;
    }

    pub(super) fn say(&mut self, now: Instant, message: Message) {
        self.liveness.sent(now);
        self.out.push_back(message);
    }

    pub(super) fn say_running(&mut self, now: Instant) {
        let cpu_us = self.target_cpu_us;
        self.say(now, Message::Running { cpu_us });
    }
}
