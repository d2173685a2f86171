//! The control connection of a source: messages, acknowledgements, and a target that is silent.

use std::time::Duration;

use super::Source;
use super::policy::POLICY_TICK;
use super::state::State;
use crate::migration::HANDSHAKE;
use crate::migration::error::{MigrationError, misbehaved};
use crate::plain_text;
use crate::units::{ByteCount, Instant};
use crate::wire::{Accept, Ack, Message, StateChunk};

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
        self.peer.heard(now);
        match message {
            Message::Ping => self.peer.send(now, Message::Pong),
            Message::Pong => self.handle_pong(now),
            Message::Abort { code, reason } => {
                if let Some(commit) = self.state.commit_mut() {
                    commit.aborted_by_target(code);
                }
                let reason = plain_text::line(&reason);
                return Err(MigrationError::PeerAborted { code, reason });
            }
            Message::Refuse(refuse) if !self.is_answered() => {
                return Err(MigrationError::Refused {
                    reasons: refuse.reasons.iter().map(|r| plain_text::line(r)).collect(),
                });
            }
            Message::Marks(list) if !self.is_answered() => {
                self.state = State::Handshake { marks: Some(list) };
            }
            Message::Accept(accept) if !self.is_answered() => self.accepted(&accept)?,
            Message::Ack(ack) => self.handle_ack(now, &ack)?,
            Message::Waited(waited) => {
                if !self.channels.note_waited(waited) {
                    return Err(misbehaved(&format!("of no channel {waited:?}")));
                }
            }
            Message::Fingerprints(chunk) if self.is_answered() => {
                self.handle_fingerprints(&chunk)?;
            }
            Message::Missing(runs) if self.is_answered() => self.handle_missing(&runs)?,
            Message::State(chunk) if self.is_answered() => {
                self.totals.state_bytes += ByteCount(chunk.bytes.len() as u64);
                return Ok(Some(chunk));
            }
            message => self.handle_switchover(now, message)?,
        }
        Ok(None)
    }

    /// Messages that the target sends from the last round on.
    fn handle_switchover(&mut self, now: Instant, message: Message) -> Result<(), MigrationError> {
        let (round, kind) = (self.round, message.kind());
        let unexpected =
            |state: &State| misbehaved(&format!("{kind:?} while {:?}", state.phase(round)));
        let is_all_placed = self.channels.all_is_placed();
        let Some(switchover) = self.state.switchover_mut() else {
            return Err(unexpected(&self.state));
        };
        match message {
            Message::Complete { digest } if switchover.is_completing() => {
                if !is_all_placed {
                    return Err(misbehaved(
                        "it said complete before acknowledging all pages",
                    ));
                }
                if digest.is_some() != self.verify {
                    return Err(misbehaved(
                        "its digest is there or missing against the handshake",
                    ));
                }
                switchover.complete_there(now, digest)?;
            }
            Message::Ready if switchover.awaits_ready() => switchover.ready(now),
            // After a reattach the target repeats that it is ready: the hand-over was lost.
            Message::Ready if switchover.awaits_running() => {
                self.peer.send(now, Message::HandOver);
            }
            Message::Running { cpu_us } if switchover.awaits_running() => {
                switchover.running(now);
                self.target_cpu = Duration::from_micros(cpu_us);
                self.peer.send(now, Message::Settled);
            }
            // It answered twice, over the old connection and the new one.
            Message::Running { .. } if switchover.is_completed() => {}
            _ => return Err(unexpected(&self.state)),
        }
        Ok(())
    }

    fn accepted(&mut self, accept: &Accept) -> Result<(), MigrationError> {
        self.accept_dedup(accept.dedup)?;
        self.target_reads = accept.reads;
        self.state = State::Arming;
        Ok(())
    }

    fn handle_ack(&mut self, now: Instant, ack: &Ack) -> Result<(), MigrationError> {
        let placed = self
            .channels
            .acknowledge(now, ack)
            .ok_or_else(|| misbehaved(&format!("an impossible acknowledgement {ack:?}")))?;
        self.measures
            .placed(now, &placed, || self.channels.placed_frames());
        if self.channels.all_is_placed() {
            if !self.state.is_round() && !self.state.is_last_round() {
                self.measures.link_idles(now);
            }
            if let Some(switchover) = self.state.switchover_mut() {
                switchover.all_is_placed(now);
            }
        }
        Ok(())
    }

    fn handle_pong(&mut self, now: Instant) {
        self.measures.ponged(now);
        if matches!(self.state, State::Handshake { .. } | State::Arming) || self.state.is_round() {
            self.ping(now);
        }
    }

    /// Asks the target for an answer, as long as another one would tell more.
    pub(super) fn ping(&mut self, now: Instant) {
        if self.measures.begin_ping(now, false) {
            self.peer.send(now, Message::Ping);
        }
    }

    /// Asks the target for an answer over a path that is free.
    pub(super) fn ping_over_free_path(&mut self, now: Instant) {
        if self.measures.begin_ping(now, true) {
            self.peer.send(now, Message::Ping);
        }
    }

    /// The target is known to be there: this side has no room for its device state.
    pub fn heard(&mut self, now: Instant) {
        self.peer.heard(now);
    }

    /// Time has passed: the target may be gone, and the policy may end the migration.
    ///
    /// # Errors
    /// When nothing was heard for [`PEER_SILENCE`](crate::migration::PEER_SILENCE), the guest not accepted
    /// for [`HANDSHAKE`], nothing placed
    /// for [`DATA_SILENCE`](crate::migration::DATA_SILENCE), or the guest has stood still for as long
    /// as it may.
    pub fn handle_time(&mut self, now: Instant) -> Result<(), MigrationError> {
        if self.is_over() {
            return Ok(());
        }
        self.peer.check(now)?;
        if !self.is_answered() && now.since(self.began) >= HANDSHAKE {
            return Err(MigrationError::Link {
                what: "the target answers and does not accept the guest",
                source: std::io::ErrorKind::TimedOut.into(),
            });
        }
        self.channels.check_progress(now)?;
        self.check_standstill(now)?;
        if self.state.is_round() && now >= self.convergence.ask_at {
            self.measures.late(now.since(self.convergence.ask_at));
            self.convergence.ask_at = now.after(POLICY_TICK);
            self.ask_policy(now, false)?;
        }
        Ok(())
    }

    /// A message for the control connection.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.peer.next_message()
    }
}
