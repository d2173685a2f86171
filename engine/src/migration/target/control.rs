//! The control connection of a target: messages, and a source that is silent.
//!
//! What a lost connection means once the target has said that it is ready is in
//! [`prepared`](super::prepared).

use super::Target;
use super::barrier::Barrier;
use super::commit::Commit;
use super::memory::Memory;
use super::same_files::{Marking, compare_files};
use crate::migration::error::{MigrationError, misbehaved};
use crate::plain_text;
use crate::units::Instant;
use crate::wire::{Hello, Message, Refuse, StateChunk};

impl Target {
    /// Takes a message from the control connection. A piece of the guest's device state is
    /// handed through.
    ///
    /// # Errors
    /// When the message ends the migration: an abort, a guest that does not fit, or a message
    /// that must not come now. The caller passes the error to
    /// [`control_failed`](Self::control_failed).
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<Option<StateChunk>, MigrationError> {
        self.heard(now);
        match message {
            Message::Ping => self.peer.send(now, Message::Pong),
            Message::Pong => {}
            Message::Abort { code, reason } => {
                let reason = plain_text::line(&reason);
                let aborted = |reason| MigrationError::PeerAborted { code, reason };
                self.commit.kept_by_source(aborted(reason.clone()));
                return Err(aborted(reason));
            }
            Message::Hello(hello) if self.memory == Memory::Vacant && self.commit.is_open() => {
                self.greet(now, hello)?;
            }
            Message::MarkShows(mark) if self.commit.is_open() => self.mark_answered(now, mark)?,
            Message::LastRound { round } if self.is_receiving() => {
                self.barrier.set_last_round(round)?;
                self.settle_rounds()?;
            }
            Message::State(chunk) if self.memory.is_cleared() => return Ok(Some(chunk)),
            Message::HandOver if self.commit.grant() => {
                if let Commit::Running { cpu_us, .. } = self.commit {
                    self.peer.send(now, Message::Running { cpu_us });
                }
            }
            Message::Settled if self.commit.settle() => {}
            message => {
                let (kind, phase) = (message.kind(), self.phase());
                return Err(misbehaved(&format!("{kind:?} while {phase:?}")));
            }
        }
        Ok(None)
    }

    /// Compares the source's guest with this side's, and refuses with every difference.
    fn greet(&mut self, now: Instant, hello: Hello) -> Result<(), MigrationError> {
        let misfits = self.incompatibilities(&hello);
        let files = compare_files(&hello, &self.config.files);
        if !misfits.is_empty() {
            let reasons = misfits.iter().map(|misfit| misfit.whole().to_owned());
            return Err(self.refuse(now, reasons.collect()));
        }
        self.barrier = Barrier::new(hello.channels);
        self.hello = Some(hello);
        self.memory = if files.unclear.is_empty() {
            Memory::Clearing { asked: false }
        } else {
            Memory::Marking(Marking::of(files.unclear))
        };
        Ok(())
    }

    /// Tells the source that its guest cannot come.
    pub(super) fn refuse(&mut self, now: Instant, reasons: Vec<String>) -> MigrationError {
        let refuse = Refuse {
            reasons: reasons.clone(),
        };
        self.peer.send(now, Message::Refuse(refuse));
        MigrationError::Refused { reasons }
    }

    /// Time has passed.
    ///
    /// # Errors
    /// When the source is silent for too long, or a lost hand-over is not asked for any more.
    pub fn handle_time(&mut self, now: Instant) -> Result<(), MigrationError> {
        let waits_for_source = self.memory == Memory::Vacant;
        if self.is_over() || waits_for_source || matches!(self.commit, Commit::Granted { .. }) {
            return Ok(());
        }
        if self.is_lost() {
            if self.commit.is_in_doubt_for_good(now) {
                // At once, so that a source that asks in this very moment is not listened to.
                let why = "the source did not ask again in time";
                self.end(MigrationError::InDoubt(why.into()));
            }
            return Ok(());
        }
        self.peer.check(now).or_else(|silent| {
            if !self.is_prepared() {
                return Err(silent);
            }
            self.commit.lost(now);
            Ok(())
        })
    }

    /// The source is known to be there: this side has no room for its device state.
    pub fn heard(&mut self, now: Instant) {
        self.peer.heard(now);
        self.commit.heard();
    }
}
