//! Frames of a data channel that are in flight: handed out, and not yet acknowledged by the target.
//!
//! Bounded by the window: at most [`WINDOW_FRAMES`] frames of a channel are in flight, of at most
//! `MAX_FRAME_PAGES` runs each.
//!
//! How many bytes the placed frames took is known here, and counted here: a target that says more
//! would make up the rate of the link, and with it the moment at which the guest is stopped. What it
//! says is only compared.

use std::collections::VecDeque;

use crate::memory::PageBitmap;
use crate::units::{ByteCount, PageRange};
use crate::wire::Ack;

/// Most frames of one channel that may be in flight.
///
/// With frames of 512 KiB this is 32 MiB per channel: a 10 Gbit/s link of 100 ms round trip is
/// kept busy by four channels.
pub(super) const WINDOW_FRAMES: u64 = 64;

/// The frames of one channel.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// Frames handed out, acknowledged or not.
    handed_out: u64,
    /// Those in flight, oldest first.
    frames: VecDeque<Frame>,
    /// The runs of those frames.
    runs: VecDeque<PageRange>,
    /// Bytes of those frames, as far as they have been sent.
    bytes: u64,
    /// Frames in flight that hold references.
    with_references: usize,
    /// Bytes of the frames that were acknowledged.
    placed_bytes: u64,
    /// Those of them that no [`Placed`] has told of: the acknowledgement came before the channel
    /// said how large the frame is.
    late_bytes: u64,
    /// The frame that was handed out last is acknowledged, and its size is still to come.
    size_due: bool,
}

/// One frame in flight.
#[derive(Clone, Copy, Debug)]
struct Frame {
    runs: u16,
    /// Bytes on the wire, once it is sent.
    bytes: Option<u32>,
    references: References,
}

/// How much of a frame is references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum References {
    None,
    Some,
    Mostly,
}

/// What an acknowledgement came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    /// Frames that are no longer in flight.
    pub(super) frames: u64,
    /// Bytes newly placed.
    pub(super) bytes: ByteCount,
    /// Whether frames of little but references are among them.
    pub(super) mostly_references: bool,
}

impl InFlight {
    /// Whether another frame may be handed out.
    pub(super) fn has_room(&self) -> bool {
        (self.frames.len() as u64) < WINDOW_FRAMES
    }

    /// A frame with these runs is handed to the channel.
    pub(super) fn hand_out(&mut self, runs: &[PageRange]) {
        self.handed_out += 1;
        self.frames.push_back(Frame {
            runs: u16::try_from(runs.len()).unwrap_or(u16::MAX),
            bytes: None,
            references: References::None,
        });
        self.runs.extend(runs);
    }

    /// Frames that were handed out so far.
    pub(super) fn handed_out(&self) -> u64 {
        self.handed_out
    }

    /// Frames that the target has placed.
    pub(super) fn placed_frames(&self) -> u64 {
        self.handed_out - self.frames.len() as u64
    }

    /// The frame that was handed out last took `bytes` on the wire; `references` of its `pages`
    /// pages are references.
    pub(super) fn sent(&mut self, bytes: ByteCount, references: u64, pages: u64) {
        let Some(frame) = self.frames.back_mut() else {
            self.placed_bytes += bytes.0;
            self.late_bytes += bytes.0;
            self.size_due = false;
            return;
        };
        frame.bytes = u32::try_from(bytes.0).ok();
        self.bytes += bytes.0;
        if references > 0 {
            frame.references = match references > pages / 2 {
                true => References::Mostly,
                false => References::Some,
            };
            self.with_references += 1;
        }
    }

    /// Whether a frame with references has been sent and not acknowledged.
    pub(super) fn has_references(&self) -> bool {
        self.with_references > 0
    }

    /// The target has placed frames. `None`: so many were never handed out, or fewer than it said
    /// before, or they took other bytes.
    pub(super) fn acknowledge(&mut self, ack: &Ack) -> Option<Placed> {
        let frames = ack.frames.checked_sub(self.placed_frames())?;
        // Nothing is taken for placed before all of it is believed.
        let count = usize::try_from(frames).ok();
        let count = count.filter(|count| *count <= self.frames.len())?;
        let mut first = self.frames.iter().take(count);
        let bytes: u64 = first.clone().filter_map(|f| f.bytes).map(u64::from).sum();
        let size_due = first
            .next_back()
            .map_or(self.size_due, |f| f.bytes.is_none());
        let placed_bytes = self.placed_bytes + bytes;
        let is_true = match size_due {
            true => ack.bytes >= placed_bytes,
            false => ack.bytes == placed_bytes,
        };
        if !is_true {
            return None;
        }
        let mut placed = Placed {
            frames,
            bytes: ByteCount(bytes + std::mem::take(&mut self.late_bytes)),
            mostly_references: false,
        };
        self.size_due = size_due;
        self.placed_bytes = placed_bytes;
        self.bytes -= bytes;
        for frame in self.frames.drain(..count) {
            self.runs.drain(..usize::from(frame.runs));
            if frame.references != References::None {
                self.with_references -= 1;
                placed.mostly_references |= frame.references == References::Mostly;
            }
        }
        Some(placed)
    }

    /// Bytes sent and not yet placed.
    pub(super) fn bytes(&self) -> ByteCount {
        ByteCount(self.bytes)
    }

    /// Whether everything handed out has been placed.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
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

    fn send(in_flight: &mut InFlight, runs: &[PageRange], bytes: u64) {
        in_flight.hand_out(runs);
        in_flight.sent(ByteCount(bytes), 0, 10);
    }

    #[test]
    fn only_unacknowledged_pages_are_given_back() {
        let mut in_flight = InFlight::default();
        send(
            &mut in_flight,
            &[PageRange::new(0, 2), PageRange::new(5, 1)],
            60,
        );
        send(&mut in_flight, &[], 40);
        send(&mut in_flight, &[PageRange::new(7, 3)], 30);
        let placed = in_flight.acknowledge(&ack(2, 100)).unwrap();
        assert_eq!((placed.frames, placed.bytes), (2, ByteCount(100)));
        assert_eq!(in_flight.bytes(), ByteCount(30));
        let mut unplaced = PageBitmap::new(PageCount(16));
        in_flight.unplaced(&mut unplaced);
        assert_eq!(unplaced.runs().collect::<Vec<_>>(), [PageRange::new(7, 3)]);
    }

    #[test]
    fn impossible_acknowledgements_are_noticed() {
        let after_one = || {
            let mut in_flight = InFlight::default();
            send(&mut in_flight, &[], 10);
            assert!(in_flight.acknowledge(&ack(1, 10)).is_some());
            in_flight
        };
        assert_eq!(after_one().acknowledge(&ack(2, 10)), None, "never sent");
        assert_eq!(after_one().acknowledge(&ack(0, 10)), None, "backwards");
        assert_eq!(after_one().acknowledge(&ack(1, 9)), None, "fewer bytes");
        assert_eq!(after_one().acknowledge(&ack(1, 11)), None, "more bytes");
        assert!(after_one().acknowledge(&ack(1, 10)).is_some(), "no news");
        let mut in_flight = after_one();
        send(&mut in_flight, &[PageRange::new(3, 1)], 10);
        for lie in [ack(2, 1 << 40), ack(3, 20)] {
            assert_eq!(in_flight.acknowledge(&lie), None, "a lie");
            let mut unplaced = PageBitmap::new(PageCount(16));
            in_flight.unplaced(&mut unplaced);
            assert!(unplaced.contains(3), "what it named is not placed");
        }
    }

    /// The thread that sends says so after the bytes have left.
    #[test]
    fn an_acknowledgement_may_overtake_the_size_of_its_frame() {
        let mut in_flight = InFlight::default();
        send(&mut in_flight, &[], 10);
        in_flight.hand_out(&[]);
        let placed = in_flight.acknowledge(&ack(2, 17)).unwrap();
        assert_eq!((placed.frames, placed.bytes), (2, ByteCount(10)));
        in_flight.sent(ByteCount(7), 1, 10);
        assert_eq!(in_flight.bytes(), ByteCount(0));
        assert!(!in_flight.has_references());
        send(&mut in_flight, &[], 5);
        let placed = in_flight.acknowledge(&ack(3, 22)).unwrap();
        assert_eq!((placed.frames, placed.bytes), (1, ByteCount(12)));

        in_flight.hand_out(&[]);
        assert_eq!(in_flight.acknowledge(&ack(4, 21)), None, "fewer than known");
    }

    #[test]
    fn references_are_in_flight_until_their_frame_is_acknowledged() {
        let mut in_flight = InFlight::default();
        for references in [6, 0] {
            in_flight.hand_out(&[]);
            in_flight.sent(ByteCount(1), references, 10);
        }
        assert!(in_flight.has_references());
        let placed = in_flight.acknowledge(&ack(1, 1)).unwrap();
        assert!(placed.mostly_references);
        assert!(!in_flight.has_references());
    }

    #[test]
    fn the_window_closes_and_opens() {
        let mut in_flight = InFlight::default();
        for _ in 0..WINDOW_FRAMES {
            assert!(in_flight.has_room());
            send(&mut in_flight, &[], 1);
        }
        assert!(!in_flight.has_room());
        in_flight.acknowledge(&ack(1, 1));
        assert!(in_flight.has_room());
    }
}
