//! What the source measures on the way, so that a blackout can be forecast: pings, harvests, late
//! timers, and rounds from their first page to their last acknowledgement.

use std::collections::VecDeque;
use std::time::Duration;

use super::Source;
use crate::converge::{PageCosts, RoundSent, SwitchoverCosts};
use crate::migration::source::in_flight::InFlight;
use crate::units::{ByteCount, Instant, PageCount};
use crate::wire::Message;

/// The round under way, and those whose acknowledgements are still to come.
///
/// Bounded: each round has a frame on every channel, and the window bounds those.
#[derive(Debug, Default)]
pub(super) struct RoundsUnderWay {
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

impl RoundsUnderWay {
    pub(super) fn begin(&mut self, now: Instant) {
        self.began = now;
        (self.pages, self.zero, self.delta) = Default::default();
        self.bytes = ByteCount(0);
    }

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

    /// The next round that the acknowledgements, channel by channel, have completed.
    pub(super) fn placed<'a>(
        &mut self,
        now: Instant,
        ledgers: impl Iterator<Item = &'a InFlight>,
    ) -> Option<RoundSent> {
        let first = self.sent.front()?;
        let mut channels = first.frames.iter().zip(ledgers);
        if !channels.all(|(frames, ledger)| ledger.placed_frames() >= *frames) {
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

    /// The last round, as if what is under way of it arrives within `rest`.
    fn expected(&self, now: Instant, rest: Duration) -> Option<RoundSent> {
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

impl Source {
    /// What stopping and starting the guest costs, as far as it is known now.
    pub fn set_switchover_costs(&mut self, costs: SwitchoverCosts) {
        self.estimates.calibration.switchover(costs);
    }

    /// The harvest that is handed over next took so long.
    pub fn harvest_took(&mut self, time: Duration) {
        self.estimates.calibration.harvested(time);
        self.last_harvest_took = time;
    }

    /// Asks the target for an answer, as long as another one would tell more.
    pub(super) fn ping(&mut self, now: Instant) {
        if self.estimates.calibration.wants_ping() {
            self.ask(now);
        }
    }

    /// Asks the target for an answer over a path that is free. All that keeps the guest from
    /// being stopped may be that the pings before had to wait behind pages.
    pub(super) fn ping_again(&mut self, now: Instant) {
        if !self.estimates.calibration.awaits_pong() {
            self.ask(now);
        }
    }

    fn ask(&mut self, now: Instant) {
        self.estimates.calibration.pinged(now);
        self.say(now, Message::Ping);
    }

    /// What is known of pages, the last round's included although it is not all acknowledged.
    pub(super) fn page_costs(&self, now: Instant, in_flight: ByteCount) -> PageCosts {
        let mut costs = self.estimates.pages.clone();
        let link = self.estimates.link.rate();
        if let Some(rest) = link.and_then(|link| in_flight.time_at(link))
            && let Some(round) = self.under_way.expected(now, rest)
        {
            costs.round(round);
        }
        costs
    }
}
