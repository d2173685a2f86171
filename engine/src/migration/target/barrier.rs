//! The barrier between rounds, and what each data channel of a target has brought.
//!
//! Invariant: a channel carries pages of the round after the one it ended last, and only when
//! every channel has ended that one; so no page of a round is placed before all of the round
//! before.

use std::time::Duration;

use super::micros;
use crate::migration::error::{MigrationError, misbehaved};
use crate::migration::stages::TargetStages;
use crate::units::{ByteCount, Instant};
use crate::wire::{Ack, Waited};

/// Frames placed on a channel before they are acknowledged together.
const ACK_FRAMES: u64 = 4;

/// All data channels of a migration, and their rounds.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    channels: Vec<Channel>,
    /// Rounds that every channel has ended.
    rounds_ended: u32,
    /// The round that the source said is the last.
    last_round: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Channel {
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

/// What a channel tells the source of frames that it has placed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledgement {
    pub(super) ack: Ack,
    /// How long it has waited; not before its first page.
    pub(super) waited: Option<Waited>,
}

impl Barrier {
    /// For so many channels, none of which has joined.
    pub(super) fn new(channels: u16) -> Self {
        Self {
            channels: vec![Channel::default(); usize::from(channels)],
            ..Self::default()
        }
    }

    /// How many channels there are.
    pub(super) fn channel_count(&self) -> u16 {
        u16::try_from(self.channels.len()).unwrap_or(u16::MAX)
    }

    /// The round whose pages are being placed, from 1.
    pub(super) fn round(&self) -> u32 {
        self.rounds_ended + 1
    }

    /// Whether the source has said which round is the last.
    pub(super) fn knows_last_round(&self) -> bool {
        self.last_round.is_some()
    }

    /// Whether every channel has ended the last round.
    pub(super) fn is_last_round_over(&self) -> bool {
        self.last_round == Some(self.rounds_ended)
    }

    /// Bytes of pages received on the wire so far, over all channels.
    pub(super) fn received(&self) -> ByteCount {
        let bytes = self.channels.iter().map(|channel| channel.placed_bytes);
        ByteCount(bytes.sum())
    }

    /// A data connection says which channel it is.
    ///
    /// # Errors
    /// When the channel is unknown, or joined already.
    pub(super) fn join(&mut self, channel: u16) -> Result<(), MigrationError> {
        match self.channels.get_mut(usize::from(channel)) {
            Some(own) if !own.joined => own.joined = true,
            _ => {
                let what = format!("data channel {channel} joined wrongly");
                return Err(misbehaved(&what));
            }
        }
        Ok(())
    }

    /// Whether the channel may read its next frame.
    pub(super) fn may_read(&self, channel: u16) -> bool {
        self.channels
            .get(usize::from(channel))
            .is_none_or(|own| own.ended == self.rounds_ended)
    }

    /// Whether the channel may bring pages of `round` now.
    ///
    /// # Errors
    /// When it has not joined.
    pub(super) fn may_place(&self, channel: u16, round: u32) -> Result<bool, MigrationError> {
        let own = self
            .channels
            .get(usize::from(channel))
            .filter(|own| own.joined)
            .ok_or_else(before_join)?;
        Ok(round == own.ended + 1 && self.may_read(channel))
    }

    /// The channel has placed a frame. Acknowledges now and then.
    pub(super) fn placed(
        &mut self,
        channel: u16,
        bytes: ByteCount,
        now: Instant,
    ) -> Option<Acknowledgement> {
        let own = self.channels.get_mut(usize::from(channel))?;
        own.begun.get_or_insert(now);
        own.placed_frames += 1;
        own.placed_bytes += bytes.0;
        let due = own.placed_frames - own.acked_frames >= ACK_FRAMES;
        due.then(|| own.acknowledge(channel, now))
    }

    /// The channel's stages have worked.
    pub(super) fn worked(&mut self, channel: u16, stages: &TargetStages) {
        if let Some(own) = self.channels.get_mut(usize::from(channel)) {
            own.waited += stages.receive.waiting + stages.place.waiting;
        }
    }

    /// The channel has carried all its pages of `round`, and ends it with a frame of `bytes`.
    ///
    /// # Errors
    /// When that is not the round it is in.
    pub(super) fn end_round(
        &mut self,
        channel: u16,
        round: u32,
        bytes: ByteCount,
        now: Instant,
    ) -> Result<Acknowledgement, MigrationError> {
        let past_last = self.last_round.is_some_and(|last| round > last);
        let own = self
            .channels
            .get_mut(usize::from(channel))
            .filter(|own| own.joined)
            .ok_or_else(before_join)?;
        if past_last || round != own.ended + 1 {
            let what = format!("the end of round {round} at a wrong time");
            return Err(misbehaved(&what));
        }
        own.ended = round;
        own.placed_frames += 1;
        own.placed_bytes += bytes.0;
        let acknowledgement = own.acknowledge(channel, now);
        if self.channels.iter().all(|channel| channel.ended == round) {
            self.rounds_ended = round;
        }
        Ok(acknowledgement)
    }

    /// The source says which round is the last. On its own connection the news may come after all
    /// pages of that round.
    ///
    /// # Errors
    /// When that round is over for long, or the source has said so before.
    pub(super) fn set_last_round(&mut self, round: u32) -> Result<(), MigrationError> {
        let over = round < self.rounds_ended.max(1);
        if self.last_round.replace(round).is_some() || over {
            return Err(misbehaved("a last round that is over, or a second one"));
        }
        Ok(())
    }
}

impl Channel {
    fn acknowledge(&mut self, channel: u16, now: Instant) -> Acknowledgement {
        self.acked_frames = self.placed_frames;
        Acknowledgement {
            ack: Ack {
                channel,
                frames: self.placed_frames,
                bytes: self.placed_bytes,
            },
            waited: self.begun.map(|begun| Waited {
                channel,
                waited_us: micros(self.waited),
                elapsed_us: micros(now.since(begun)),
            }),
        }
    }
}

fn before_join() -> MigrationError {
    misbehaved("data before its channel joined")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant(0);
    const BYTES: ByteCount = ByteCount(28);

    #[test]
    fn a_channel_waits_until_all_have_ended_its_round() {
        let mut barrier = Barrier::new(2);
        assert!(barrier.may_place(0, 1).is_err(), "it has not joined");
        barrier.join(0).unwrap();
        barrier.join(1).unwrap();
        assert!(barrier.join(1).is_err() && barrier.join(2).is_err());
        assert!(barrier.may_place(0, 1).unwrap() && !barrier.may_place(0, 2).unwrap());
        barrier.end_round(0, 1, BYTES, NOW).unwrap();
        assert!(!barrier.may_read(0) && barrier.may_read(1));
        assert!(!barrier.may_place(0, 2).unwrap());
        assert!(barrier.end_round(1, 2, BYTES, NOW).is_err());
        barrier.end_round(1, 1, BYTES, NOW).unwrap();
        assert!(barrier.may_read(0) && barrier.may_place(1, 2).unwrap());
        assert_eq!((barrier.round(), barrier.received()), (2, ByteCount(56)));
    }

    #[test]
    fn frames_are_acknowledged_in_fours() {
        let mut barrier = Barrier::new(1);
        barrier.join(0).unwrap();
        for frame in 1..=8 {
            let told = barrier.placed(0, ByteCount(10), NOW);
            let frames = told.map(|told| (told.ack.frames, told.ack.bytes));
            let due = (frame % 4 == 0).then_some((frame, frame * 10));
            assert_eq!(frames, due);
        }
    }
}
