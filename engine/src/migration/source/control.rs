//! The control connection of a source: its messages, acknowledgements, and a target that says
//! nothing.

use std::time::Duration;

use super::policy::POLICY_TICK;
use super::{Source, State};
use crate::migration::error::{MigrationError, misbehaved};
use crate::migration::liveness::Watch;
use crate::migration::ownership::TargetReady;
use crate::migration::{DATA_SILENCE, PEER_SILENCE};
use crate::units::{ByteCount, Instant};
use crate::wire::{AbortCode, Ack, Message, StateChunk};

impl Source {
    /// Takes a message from the control connection. A piece of the target's answer to the
    /// device state is handed through.
    ///
    /// # Errors
    /// When the message ends the migration: a refusal, an abort, or one that must not come now.
    /// The caller passes the error to [`fail`](Self::fail).
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<Option<StateChunk>, MigrationError> {
        self.liveness.heard(now);
        match (message, self.state) {
            (Message::Ping, _) => self.say(now, Message::Pong),
            (Message::Pong, phase) => {
                self.estimates.calibration.ponged(now);
                if matches!(phase, State::Greeting | State::Arming | State::Round) {
                    self.ping(now);
                }
            }
            (Message::Abort { code, reason }, _) => {
                // A target that is ready gives up for one reason of its own: the guest was
                // handed over and does not run.
                self.kept_by_target = self.handed_over && code == AbortCode::Guest;
                return Err(MigrationError::PeerAborted { code, reason });
            }
            (Message::Refuse(refuse), State::Greeting) => {
                return Err(MigrationError::Refused {
                    reasons: refuse.reasons,
                });
            }
            (Message::Accept(accept), State::Greeting) => {
                self.accept_references(accept.references)?;
                self.target_reads = accept.reads;
                self.state = State::Arming;
            }
            (Message::Ack(ack), _) => self.handle_ack(now, &ack)?,
            (Message::Waited(waited), _) => {
                match self.channels.get_mut(usize::from(waited.channel)) {
                    Some(channel) => channel.waited = Some(waited),
                    None => return Err(misbehaved(&format!("of no channel {waited:?}"))),
                }
            }
            (Message::Catalogue(chunk), phase) if phase != State::Greeting => {
                self.handle_catalogue(&chunk)?;
            }
            (Message::Missing(runs), phase) if phase != State::Greeting => {
                self.handle_missing(&runs)?;
            }
            (Message::Complete { digest }, State::Completing) => {
                if !self.all_is_placed() {
                    return Err(misbehaved(
                        "it said complete before acknowledging all pages",
                    ));
                }
                if digest.is_some() != self.verify {
                    return Err(misbehaved(
                        "its digest is there or missing against the handshake",
                    ));
                }
                self.digest_there = digest;
                self.placed_all = true;
                self.settle_complete(now)?;
            }
            (Message::State(chunk), phase) if phase != State::Greeting => {
                self.state_bytes += ByteCount(chunk.bytes.len() as u64);
                return Ok(Some(chunk));
            }
            (Message::Ready, State::Loading | State::SavingState) => {
                self.state = State::Ready;
                self.times.ready = now;
                self.ready = Some(TargetReady(()));
            }
            // After a reattach the target repeats that it is ready: the hand-over was lost.
            (Message::Ready, State::HandedOver) => self.say(now, Message::HandOver),
            (Message::Running { cpu_us }, State::HandedOver) => {
                self.state = State::Completed;
                self.times.running = now;
                self.target_cpu = Duration::from_micros(cpu_us);
                self.say(now, Message::Settled);
            }
            // It answered twice, over the old connection and the new one.
            (Message::Running { .. }, State::Completed) => {}
            (message, phase) => {
                return Err(misbehaved(&format!("{:?} while {phase:?}", message.kind())));
            }
        }
        Ok(None)
    }

    fn handle_ack(&mut self, now: Instant, ack: &Ack) -> Result<(), MigrationError> {
        let (placed, refers) = self
            .channels
            .get_mut(usize::from(ack.channel))
            .and_then(|channel| channel.in_flight.acknowledge(ack))
            .ok_or_else(|| misbehaved(&format!("an impossible acknowledgement {ack:?}")))?;
        self.acked_at = now;
        self.placed_bytes += placed;
        if refers {
            self.estimates.link.referred();
        }
        self.estimates.link.placed(now, placed);
        let ledgers = || self.channels.iter().map(|channel| &channel.in_flight);
        while let Some(round) = self.under_way.placed(now, ledgers()) {
            self.estimates.pages.round(round);
        }
        if self.all_is_placed() {
            self.times.placed = now;
            if !matches!(self.state, State::Round | State::LastRound) {
                self.estimates.link.end(now);
            }
        }
        Ok(())
    }

    /// Another side that is known to be there: this one has no room for what it says.
    pub fn heard(&mut self, now: Instant) {
        self.liveness.heard(now);
    }

    /// Time has passed: the other side may have died, and the policy may want to give up.
    ///
    /// # Errors
    /// When nothing was heard for [`PEER_SILENCE`], or nothing placed for [`DATA_SILENCE`].
    pub fn handle_time(&mut self, now: Instant) -> Result<(), MigrationError> {
        if self.is_over() {
            return Ok(());
        }
        match self.liveness.look(now) {
            Watch::Nothing => {}
            Watch::Ping => self.say(now, Message::Ping),
            Watch::Dead => {
                return Err(MigrationError::PeerSilent {
                    seconds: PEER_SILENCE.as_secs(),
                });
            }
        }
        if !self.all_is_placed() && now.since(self.acked_at) >= DATA_SILENCE {
            return Err(MigrationError::Link {
                what: "pages are sent and none arrives",
                source: std::io::ErrorKind::TimedOut.into(),
            });
        }
        if self.state == State::Round && now >= self.policy_due {
            let late = now.since(self.policy_due);
            self.estimates.calibration.scheduling_delay.late(late);
            self.policy_due = now.after(POLICY_TICK);
            self.ask_policy(now, false)?;
        }
        Ok(())
    }

    /// A message for the control connection.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.out.pop_front()
    }

    pub(super) fn say(&mut self, now: Instant, message: Message) {
        self.liveness.said(now);
        self.out.push_back(message);
    }

    /// Whether the target has placed everything that was handed out.
    pub(super) fn all_is_placed(&self) -> bool {
        let mut channels = self.channels.iter();
        channels.all(|channel| channel.in_flight.is_settled())
    }
}
