//! Rounds from their first page to their last acknowledgement: how long pages take.

use std::collections::VecDeque;
use std::time::Duration;

use crate::converge::RoundSent;
use crate::units::{ByteCount, Instant, PageCount};

/// The round under way, and those whose acknowledgements are still to come.
///
/// Bounded: each round has a frame on every channel, and the window bounds those.
#[derive(Debug, Default)]
pub(super) struct RoundsInFlight {
    began: Instant,
    pages: PageCount,
    zero: PageCount,
    delta: PageCount,
    bytes: ByteCount,
    sent: VecDeque<Sent>,
    /// Lists of rounds that are done, for those to come: a round allocates nothing.
    spare: Vec<Vec<u64>>,
    /// When the last one was all there.
    placed: Instant,
}

/// A round that is sent.
#[derive(Debug)]
struct Sent {
    began: Instant,
    /// All but its time.
    round: RoundSent,
    /// Frames that each channel had been handed when it ended the round.
    frames: Vec<u64>,
}

impl RoundsInFlight {
    /// A round begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began = now;
        (self.pages, self.zero, self.delta) = Default::default();
        self.bytes = ByteCount(0);
    }

    /// Pages of the round under way are sent.
    pub(super) fn add(&mut self, pages: u64, zero: u64, delta: u64, bytes: ByteCount) {
        self.pages.0 += pages;
        self.zero.0 += zero;
        self.delta.0 += delta;
        self.bytes += bytes;
    }

    /// The round under way is sent, over `channels` that have been handed so many frames.
    pub(super) fn end(&mut self, channels: impl Iterator<Item = u64>) {
        let mut frames = self.spare.pop().unwrap_or_default();
        frames.clear();
        frames.extend(channels);
        let round = RoundSent {
            pages: self.pages,
            zero: self.zero,
            delta: self.delta,
            bytes: self.bytes,
            time: Duration::ZERO,
        };
        let began = self.began;
        self.sent.push_back(Sent {
            began,
            round,
            frames,
        });
    }

    /// The next round that is all placed, by the frames `placed` of each channel.
    pub(super) fn placed(
        &mut self,
        now: Instant,
        placed: impl Iterator<Item = u64>,
    ) -> Option<RoundSent> {
        let first = self.sent.front()?;
        let mut channels = first.frames.iter().zip(placed);
        if !channels.all(|(frames, placed)| placed >= *frames) {
            return None;
        }
        let sent = self.sent.pop_front()?;
        // What came before it had to be carried first.
        let began = sent.began.max(self.placed);
        self.placed = now;
        self.spare.push(sent.frames);
        Some(RoundSent {
            time: now.since(began),
            ..sent.round
        })
    }

    /// Whether every round that was sent is all placed.
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// The last round, as if what is under way of it arrives within `rest`.
    pub(super) fn expected(&self, now: Instant, rest: Duration) -> Option<RoundSent> {
        let last = self.sent.back()?;
        Some(RoundSent {
            time: now.since(last.began.max(self.placed)) + rest,
            ..last.round
        })
    }

    /// Bytes on the wire of a page of the round that was sent last, or is being sent.
    pub(super) fn page_bytes(&self) -> Option<f64> {
        (self.pages.0 > 0).then(|| self.bytes.0 as f64 / self.pages.0 as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn a_round_counts_from_when_the_one_before_was_there() {
        let mut rounds = RoundsInFlight::default();
        for (at, frames) in [(0, [3, 2]), (10, [5, 5])] {
            rounds.begin(at_ms(at));
            rounds.add(10, 2, 3, ByteCount(1000));
            rounds.end(frames.into_iter());
        }
        assert!(rounds.placed(at_ms(20), [3, 1].into_iter()).is_none());
        assert!(!rounds.is_empty());
        let first = rounds.placed(at_ms(30), [4, 2].into_iter()).unwrap();
        assert_eq!(first.time, Duration::from_millis(30));
        assert_eq!((first.pages, first.zero), (PageCount(10), PageCount(2)));
        let expected = rounds.expected(at_ms(40), Duration::from_millis(5));
        assert_eq!(expected.unwrap().time, Duration::from_millis(15));
        let second = rounds.placed(at_ms(50), [5, 5].into_iter()).unwrap();
        assert_eq!(second.time, Duration::from_millis(20), "since the first");
        assert!(rounds.expected(at_ms(60), Duration::ZERO).is_none());
        assert!(rounds.is_empty());
        assert_eq!(rounds.page_bytes(), Some(100.0));
    }
}
