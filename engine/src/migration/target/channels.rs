//! Data channels of a target: the barrier between rounds, what may be placed, acknowledgements.
//!
//! Invariant: a channel carries pages of the round after the one it ended last, and only when
//! every channel has ended that one; so no page of a round is placed before all of the round
//! before.

use std::time::Duration;

use super::{State, Target, micros};
use crate::migration::error::{MigrationError, misbehaved};
use crate::migration::stages::TargetStages;
use crate::units::{ByteCount, Instant};
use crate::wire::{Ack, Encoding, Message, PagesBody, Waited};

/// Frames placed on a channel before they are acknowledged together.
const ACK_FRAMES: u64 = 4;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Channel {
    joined: bool,
    /// Rounds the channel has ended; it carries pages of round `ended + 1`.
    ended: u32,
    placed_frames: u64,
    placed_bytes: u64,
    acked_frames: u64,
    /// When its first frame was placed, and how long it has waited since.
    begun: Option<Instant>,
    waited: Duration,
}

impl Target {
    /// A data connection says which channel it is.
    ///
    /// # Errors
    /// When the channel is unknown, or joined already.
    pub fn join(&mut self, channel: u16) -> Result<(), MigrationError> {
        match self.channels.get_mut(usize::from(channel)) {
            Some(slot) if !slot.joined => slot.joined = true,
            _ => {
                return Err(misbehaved(&format!(
                    "data channel {channel} joined wrongly"
                )));
            }
        }
        Ok(())
    }

    /// Whether channel number `channel` may read its next frame: the barrier.
    pub fn may_read(&self, channel: u16) -> bool {
        self.channels
            .get(usize::from(channel))
            .is_none_or(|own| own.ended == self.rounds_ended)
    }

    /// Checks that the pages of a frame may be placed now.
    ///
    /// # Errors
    /// When they are of another round, or outside the guest's memory.
    pub fn admit(&self, channel: u16, body: &PagesBody<'_>) -> Result<(), MigrationError> {
        let own = self.channel(channel)?;
        if self.state != State::Receiving || body.round != own.ended + 1 || !self.may_read(channel)
        {
            return Err(misbehaved(&format!(
                "pages of round {} at a wrong time",
                body.round
            )));
        }
        let takes_references = self.terms().is_some();
        for run in body.runs() {
            if !self.config.layout.contains(run.range) {
                let what = format!("pages {:?} outside the guest", run.range);
                return Err(misbehaved(&what));
            }
            if run.encoding == Encoding::Reference && !takes_references {
                return Err(misbehaved("references that were not agreed on"));
            }
        }
        Ok(())
    }

    /// A frame is dealt with. Acknowledges now and then; whether it did.
    pub fn placed(&mut self, channel: u16, bytes: ByteCount, now: Instant) -> bool {
        let Some(own) = self.channels.get_mut(usize::from(channel)) else {
            return false;
        };
        own.begun.get_or_insert(now);
        own.placed_frames += 1;
        own.placed_bytes += bytes.0;
        let due = own.placed_frames - own.acked_frames >= ACK_FRAMES;
        if due {
            self.acknowledge(channel, now);
        }
        due
    }

    /// The stages of a channel have worked.
    pub fn worked(&mut self, channel: u16, stages: TargetStages) {
        self.stages += stages;
        if let Some(own) = self.channels.get_mut(usize::from(channel)) {
            own.waited += stages.receive.waiting + stages.place.waiting;
        }
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
        let own = self.channel(channel)?;
        let past_last = self.last_round.is_some_and(|last| round > last);
        if self.state != State::Receiving || round != own.ended + 1 || past_last {
            return Err(misbehaved(&format!(
                "the end of round {round} at a wrong time"
            )));
        }
        let own = &mut self.channels[usize::from(channel)];
        own.ended = round;
        own.placed_frames += 1;
        own.placed_bytes += bytes.0;
        self.acknowledge(channel, now);
        if self.channels.iter().all(|channel| channel.ended == round) {
            self.rounds_ended = round;
            self.settle_rounds()?;
        }
        Ok(())
    }

    /// Data channels the source opens; 0 before the handshake.
    pub fn channel_count(&self) -> u16 {
        u16::try_from(self.channels.len()).unwrap_or(u16::MAX)
    }

    /// Bytes of pages received on the wire so far, over all channels.
    pub(super) fn received(&self) -> ByteCount {
        let bytes = self.channels.iter().map(|channel| channel.placed_bytes);
        ByteCount(bytes.sum())
    }

    fn channel(&self, channel: u16) -> Result<&Channel, MigrationError> {
        self.channels
            .get(usize::from(channel))
            .filter(|own| own.joined)
            .ok_or_else(|| misbehaved("data before its channel joined"))
    }

    fn acknowledge(&mut self, channel: u16, now: Instant) {
        let own = &mut self.channels[usize::from(channel)];
        own.acked_frames = own.placed_frames;
        let ack = Ack {
            channel,
            frames: own.placed_frames,
            bytes: own.placed_bytes,
        };
        let waited = own.begun.map(|begun| Waited {
            channel,
            waited_us: micros(own.waited),
            elapsed_us: micros(now.since(begun)),
        });
        self.say(now, Message::Ack(ack));
        if let Some(waited) = waited {
            self.say(now, Message::Waited(waited));
        }
    }

    /// After the last round, goes on to the digest.
    pub(super) fn settle_rounds(&mut self) -> Result<(), MigrationError> {
        if self.state == State::Receiving && self.last_round == Some(self.rounds_ended) {
            let count = self.missing.count();
            if count > 0 {
                return Err(misbehaved(&format!(
                    "it ended the last round, and {count} pages are missing"
                )));
            }
            self.state = State::Digesting;
            self.step_given = false;
        }
        Ok(())
    }
}
