//! What was handed to a data channel and not yet acknowledged by the target.
//!
//! Bounded by the window: at most [`WINDOW_FRAMES`] frames of a channel are in flight, of at most
//! `MAX_FRAME_PAGES` runs each.

use std::collections::VecDeque;

use crate::memory::PageBitmap;
use crate::units::{ByteCount, PageRange};
use crate::wire::Ack;

/// Most frames of one channel that may be under way.
///
/// With frames of 512 KiB this is 32 MiB per channel: a 10 Gbit/s link of 100 ms round trip is
/// kept busy by four channels.
pub(super) const WINDOW_FRAMES: u64 = 64;

/// The frames of one channel.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// Frames handed out, acknowledged or not.
    frames: u64,
    acked_frames: u64,
    sent_bytes: u64,
    acked_bytes: u64,
    /// Number of runs of each frame under way, oldest first.
    run_counts: VecDeque<u16>,
    /// The runs of those frames.
    runs: VecDeque<PageRange>,
    /// Numbers, from 0, of those frames that hold references, and whether they hold little else.
    with_references: VecDeque<(u64, bool)>,
}

impl InFlight {
    /// Whether another frame may be handed out.
    pub(super) fn has_room(&self) -> bool {
        self.frames - self.acked_frames < WINDOW_FRAMES
    }

    /// A frame with these runs is handed to the channel.
    pub(super) fn hand_out(&mut self, runs: &[PageRange]) {
        self.frames += 1;
        self.run_counts
            .push_back(u16::try_from(runs.len()).unwrap_or(u16::MAX));
        self.runs.extend(runs);
    }

    /// Number of the frame that would be handed out next, from 0; so many were handed out so far.
    pub(super) fn next_frame(&self) -> u64 {
        self.frames
    }

    /// Frames that the target has placed.
    pub(super) fn placed_frames(&self) -> u64 {
        self.acked_frames
    }

    /// The frame that was handed out last took `bytes` on the wire; `references` of its `pages`
    /// pages are references.
    pub(super) fn sent(&mut self, bytes: ByteCount, references: u64, pages: u64) {
        self.sent_bytes += bytes.0;
        // Its acknowledgement may have come already.
        if references > 0 && self.acked_frames < self.frames {
            let mostly = references > pages / 2;
            self.with_references.push_back((self.frames - 1, mostly));
        }
    }

    /// Whether a frame with references has been sent and not acknowledged.
    pub(super) fn has_references_under_way(&self) -> bool {
        !self.with_references.is_empty()
    }

    /// The target has placed frames. Returns the bytes newly placed and whether frames of
    /// little but references are among them, or `None` if the acknowledgement is for frames that
    /// were never sent or goes backwards.
    pub(super) fn acknowledge(&mut self, ack: &Ack) -> Option<(ByteCount, bool)> {
        if ack.frames > self.frames || ack.frames < self.acked_frames {
            return None;
        }
        let placed = ack.bytes.checked_sub(self.acked_bytes)?;
        for _ in self.acked_frames..ack.frames {
            let runs = self.run_counts.pop_front()?;
            self.runs.drain(..usize::from(runs));
        }
        let mut refers = false;
        while let Some((frame, mostly)) = self.with_references.front()
            && *frame < ack.frames
        {
            refers |= mostly;
            self.with_references.pop_front();
        }
        self.acked_frames = ack.frames;
        self.acked_bytes = ack.bytes;
        Some((ByteCount(placed), refers))
    }

    /// Bytes sent and not yet placed. An acknowledgement may overtake [`sent`](Self::sent).
    pub(super) fn bytes(&self) -> ByteCount {
        ByteCount(self.sent_bytes.saturating_sub(self.acked_bytes))
    }

    /// Whether everything handed out has been placed.
    pub(super) fn is_settled(&self) -> bool {
        self.frames == self.acked_frames
    }

    /// Adds the pages that are not known to be placed.
    pub(super) fn unplaced(&self, into: &mut PageBitmap) {
        for run in &self.runs {
            into.insert(*run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PageCount;

    fn ack(frames: u64, bytes: u64) -> Ack {
        Ack {
            channel: 0,
            frames,
            bytes,
        }
    }

    #[test]
    fn only_unacknowledged_pages_are_given_back() {
        let mut in_flight = InFlight::default();
        in_flight.hand_out(&[PageRange::new(0, 2), PageRange::new(5, 1)]);
        in_flight.hand_out(&[]);
        in_flight.hand_out(&[PageRange::new(7, 3)]);
        assert_eq!(
            in_flight.acknowledge(&ack(2, 100)),
            Some((ByteCount(100), false))
        );
        let mut unplaced = PageBitmap::new(PageCount(16));
        in_flight.unplaced(&mut unplaced);
        assert_eq!(unplaced.runs().collect::<Vec<_>>(), [PageRange::new(7, 3)]);
    }

    #[test]
    fn impossible_acknowledgements_are_noticed() {
        let mut in_flight = InFlight::default();
        in_flight.hand_out(&[]);
        assert_eq!(in_flight.acknowledge(&ack(2, 0)), None, "never sent");
        assert!(in_flight.acknowledge(&ack(1, 10)).is_some());
        assert_eq!(in_flight.acknowledge(&ack(0, 10)), None, "backwards");
        assert_eq!(in_flight.acknowledge(&ack(1, 9)), None, "fewer bytes");
    }

    #[test]
    fn references_are_under_way_until_their_frame_is_acknowledged() {
        let mut in_flight = InFlight::default();
        let send = |in_flight: &mut InFlight, references| {
            in_flight.hand_out(&[]);
            in_flight.sent(ByteCount(1), references, 10);
        };
        send(&mut in_flight, 6);
        send(&mut in_flight, 0);
        assert!(in_flight.has_references_under_way());
        assert_eq!(
            in_flight.acknowledge(&ack(1, 1)),
            Some((ByteCount(1), true))
        );
        assert!(!in_flight.has_references_under_way());
        // The acknowledgement comes before the channel says that it has sent the frame.
        in_flight.hand_out(&[]);
        assert!(in_flight.acknowledge(&ack(3, 3)).is_some());
        in_flight.sent(ByteCount(1), 1, 10);
        assert!(!in_flight.has_references_under_way());
    }

    #[test]
    fn the_window_closes_and_opens() {
        let mut in_flight = InFlight::default();
        for _ in 0..WINDOW_FRAMES {
            assert!(in_flight.has_room());
            in_flight.hand_out(&[]);
        }
        assert!(!in_flight.has_room());
        in_flight.acknowledge(&ack(1, 0));
        assert!(in_flight.has_room());
    }
}
