//! The data channels of a source: what each has in flight, and which have ended their round.

use super::in_flight::{InFlight, Placed};
use crate::memory::PageBitmap;
use crate::migration::DATA_SILENCE;
use crate::migration::counters::SentFrame;
use crate::migration::error::MigrationError;
use crate::units::{ByteCount, Instant, PageRange};
use crate::wire::{Ack, Waited};

#[derive(Debug, Default)]
struct Channel {
    in_flight: InFlight,
    round_ended: bool,
    /// What the target said last.
    waited: Option<Waited>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Channels {
    channels: Vec<Channel>,
    placed_bytes: ByteCount,
    /// Pages handed out, repeats counted.
    handed_out_pages: u64,
    /// When frames in flight last became fewer, or began to be there.
    progress_at: Instant,
}

impl Channels {
    /// So many, of which none has sent anything.
    pub(super) fn new(count: u16, now: Instant) -> Self {
        Self {
            channels: (0..count).map(|_| Channel::default()).collect(),
            placed_bytes: ByteCount(0),
            handed_out_pages: 0,
            progress_at: now,
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.channels.len() as u64
    }

    /// Whether there is a channel of that number.
    pub(super) fn has(&self, channel: u16) -> bool {
        usize::from(channel) < self.channels.len()
    }

    /// Whether that channel takes more of the round: it has not ended it, and its window is open.
    pub(super) fn takes_more(&self, channel: u16) -> bool {
        let own = self.channels.get(usize::from(channel));
        own.is_some_and(|own| !own.round_ended && own.in_flight.has_room())
    }

    /// A frame with these runs is handed to the channel.
    pub(super) fn hand_out(&mut self, now: Instant, channel: u16, runs: &[PageRange]) {
        if self.all_is_placed() {
            self.progress_at = now;
        }
        if let Some(own) = self.channels.get_mut(usize::from(channel)) {
            own.in_flight.hand_out(runs);
            self.handed_out_pages += runs.iter().map(|run| run.count.0).sum::<u64>();
        }
    }

    /// The frame that the channel was handed last is on the wire.
    pub(super) fn sent(&mut self, channel: u16, frame: &SentFrame) {
        if let Some(own) = self.channels.get_mut(usize::from(channel)) {
            own.in_flight
                .sent(frame.bytes, frame.reference, frame.pages());
        }
    }

    /// The target has placed frames. `None`: that cannot be.
    pub(super) fn acknowledge(&mut self, now: Instant, ack: &Ack) -> Option<Placed> {
        let own = self.channels.get_mut(usize::from(ack.channel))?;
        let placed = own.in_flight.acknowledge(ack)?;
        self.placed_bytes += placed.bytes;
        if placed.frames > 0 {
            self.progress_at = now;
        }
        Some(placed)
    }

    /// Time has passed.
    ///
    /// # Errors
    /// When frames are in flight and none was placed for [`DATA_SILENCE`]. An acknowledgement that
    /// is repeated is no progress.
    pub(super) fn check_progress(&self, now: Instant) -> Result<(), MigrationError> {
        if self.all_is_placed() || now.since(self.progress_at) < DATA_SILENCE {
            return Ok(());
        }
        Err(MigrationError::Link {
            what: "pages are sent and none arrives",
            source: std::io::ErrorKind::TimedOut.into(),
        })
    }

    /// When frames in flight last became fewer, or began to be there.
    pub(super) fn progress_at(&self) -> Instant {
        self.progress_at
    }

    /// Another round begins.
    pub(super) fn begin_round(&mut self) {
        for channel in &mut self.channels {
            channel.round_ended = false;
        }
    }

    /// The channel has ended its round; whether all have.
    pub(super) fn end_round(&mut self, channel: u16) -> bool {
        if let Some(own) = self.channels.get_mut(usize::from(channel)) {
            own.round_ended = true;
        }
        self.channels.iter().all(|channel| channel.round_ended)
    }

    /// Pages that were handed out so far, a page once for each time.
    pub(super) fn handed_out_pages(&self) -> u64 {
        self.handed_out_pages
    }

    /// Frames that each was handed so far.
    pub(super) fn handed_out_frames(&self) -> impl Iterator<Item = u64> {
        let channels = self.channels.iter();
        channels.map(|channel| channel.in_flight.handed_out())
    }

    /// Frames of each that the target has placed.
    pub(super) fn placed_frames(&self) -> impl Iterator<Item = u64> {
        let channels = self.channels.iter();
        channels.map(|channel| channel.in_flight.placed_frames())
    }

    /// Bytes on the wire that the target has placed so far.
    pub(super) fn placed_bytes(&self) -> ByteCount {
        self.placed_bytes
    }

    /// Bytes sent and not yet placed.
    pub(super) fn bytes_in_flight(&self) -> ByteCount {
        let channels = self.channels.iter();
        ByteCount(channels.map(|channel| channel.in_flight.bytes().0).sum())
    }

    /// Whether everything handed out has been placed.
    pub(super) fn all_is_placed(&self) -> bool {
        let mut channels = self.channels.iter();
        channels.all(|channel| channel.in_flight.is_empty())
    }

    /// Whether the target may still say that it misses pages it was sent by reference.
    pub(super) fn is_answer_due(&self) -> bool {
        let mut channels = self.channels.iter();
        channels.any(|channel| channel.in_flight.has_references())
    }

    /// The target said how long a channel has waited; whether there is such a channel.
    pub(super) fn note_waited(&mut self, waited: Waited) -> bool {
        let own = self.channels.get_mut(usize::from(waited.channel));
        own.is_some_and(|own| {
            own.waited = Some(waited);
            true
        })
    }

    /// How long the channel has waited at the target, if that says so.
    pub(super) fn waited(&self, channel: u16) -> Option<Waited> {
        self.channels.get(usize::from(channel))?.waited
    }

    /// Adds the pages that are not known to be placed.
    pub(super) fn add_unplaced(&self, into: &mut PageBitmap) {
        for channel in &self.channels {
            channel.in_flight.unplaced(into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at_s(s: u64) -> Instant {
        Instant(s * 1_000_000_000)
    }

    fn ack(channel: u16, frames: u64) -> Ack {
        Ack {
            channel,
            frames,
            bytes: frames * 10,
        }
    }

    fn send(channels: &mut Channels, now: Instant, channel: u16) {
        channels.hand_out(now, channel, &[]);
        let frame = SentFrame {
            bytes: ByteCount(10),
            ..SentFrame::default()
        };
        channels.sent(channel, &frame);
    }

    #[test]
    fn only_progress_puts_off_the_end() {
        let mut channels = Channels::new(2, at_s(0));
        assert!(channels.check_progress(at_s(99)).is_ok(), "nothing is sent");
        send(&mut channels, at_s(100), 0);
        send(&mut channels, at_s(101), 1);
        assert!(channels.check_progress(at_s(129)).is_ok());
        assert!(channels.acknowledge(at_s(129), &ack(1, 1)).is_some());
        let silent = at_s(129).after(DATA_SILENCE);
        // The same again and again.
        for second in 130..150 {
            assert!(channels.acknowledge(at_s(second), &ack(1, 1)).is_some());
        }
        let before = Instant(silent.0 - Duration::from_millis(1).as_nanos() as u64);
        assert!(channels.check_progress(before).is_ok());
        assert!(channels.check_progress(silent).is_err());
        assert!(channels.acknowledge(silent, &ack(0, 1)).is_some());
        assert!(channels.check_progress(at_s(999)).is_ok(), "all is placed");
        assert_eq!(channels.placed_bytes(), ByteCount(20));
    }

    #[test]
    fn a_round_is_over_when_all_channels_have_ended_it() {
        let mut channels = Channels::new(2, at_s(0));
        assert!(!channels.end_round(1));
        assert!(!channels.takes_more(1) && channels.takes_more(0));
        assert!(channels.end_round(0));
        channels.begin_round();
        assert!(channels.takes_more(1));
        assert!(!channels.has(2) && !channels.takes_more(2));
    }
}
