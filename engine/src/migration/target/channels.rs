//! Data channels of a target: what may be placed, and acknowledgements.

use super::Target;
use super::barrier::Acknowledgement;
use super::memory::Memory;
use crate::migration::error::{MigrationError, misbehaved};
use crate::migration::stages::TargetStages;
use crate::units::{ByteCount, Instant};
use crate::wire::{Encoding, Message, PagesBody};

impl Target {
    /// A data connection says which channel it is.
    ///
    /// # Errors
    /// When the channel is unknown, or joined already.
    pub fn join(&mut self, channel: u16) -> Result<(), MigrationError> {
        self.barrier.join(channel)
    }

    /// Whether channel number `channel` may read its next frame: the barrier.
    pub fn may_read(&self, channel: u16) -> bool {
        self.barrier.may_read(channel)
    }

    /// Data channels the source opens; 0 before the handshake.
    pub fn channel_count(&self) -> u16 {
        self.barrier.channel_count()
    }

    /// Checks that the pages of a frame may be placed now.
    ///
    /// # Errors
    /// When they are of another round, or outside the guest's memory.
    pub fn admit(&self, channel: u16, body: &PagesBody<'_>) -> Result<(), MigrationError> {
        let round = body.round;
        if !self.barrier.may_place(channel, round)? || !self.is_receiving() {
            return Err(misbehaved(&format!(
                "pages of round {round} at a wrong time"
            )));
        }
        let takes_dedup = self.terms().is_some();
        for run in body.runs() {
            if !self.config.layout.contains(run.range) {
                let what = format!("pages {:?} outside the guest", run.range);
                return Err(misbehaved(&what));
            }
            if run.encoding == Encoding::Reference && !takes_dedup {
                return Err(misbehaved("references that were not agreed on"));
            }
        }
        Ok(())
    }

    /// A frame is dealt with. Acknowledges now and then; whether it did.
    pub fn placed(&mut self, channel: u16, bytes: ByteCount, now: Instant) -> bool {
        let due = self.barrier.placed(channel, bytes, now);
        if let Some(acknowledgement) = due {
            self.acknowledge(now, acknowledgement);
        }
        due.is_some()
    }

    /// The stages of a channel have worked.
    pub fn worked(&mut self, channel: u16, stages: TargetStages) {
        self.stages += stages;
        self.barrier.worked(channel, &stages);
    }

    /// Channel number `channel` has carried all its pages of `round`, in a frame of `bytes`.
    ///
    /// # Errors
    /// When that is not the round it is in.
    pub fn round_end(
        &mut self,
        channel: u16,
        round: u32,
        bytes: ByteCount,
        now: Instant,
    ) -> Result<(), MigrationError> {
        if !self.is_receiving() {
            let what = format!("the end of round {round} at a wrong time");
            return Err(misbehaved(&what));
        }
        let acknowledgement = self.barrier.end_round(channel, round, bytes, now)?;
        self.acknowledge(now, acknowledgement);
        self.settle_rounds()
    }

    /// Whether pages may come.
    pub(super) fn is_receiving(&self) -> bool {
        self.memory == Memory::Receiving && self.commit.is_open()
    }

    fn acknowledge(&mut self, now: Instant, acknowledgement: Acknowledgement) {
        self.peer.send(now, Message::Ack(acknowledgement.ack));
        if let Some(waited) = acknowledgement.waited {
            self.peer.send(now, Message::Waited(waited));
        }
    }

    /// After the last round, goes on to the digest.
    pub(super) fn settle_rounds(&mut self) -> Result<(), MigrationError> {
        if self.is_receiving() && self.barrier.is_last_round_over() {
            let count = self.missing.count();
            if count > 0 {
                return Err(misbehaved(&format!(
                    "it ended the last round, and {count} pages are missing"
                )));
            }
            self.memory = Memory::Digesting { asked: false };
        }
        Ok(())
    }
}
