//! What the source measures on the way: the link, the pages, the guest's writes, and what a
//! switchover costs.

use std::time::Duration;

use super::in_flight::Placed;
use super::rounds_in_flight::RoundsInFlight;
use crate::converge::{Estimates, LostWork, PageCosts, SwitchoverCosts};
use crate::migration::counters::SentFrame;
use crate::units::{ByteCount, Instant, PAGE_BYTES, PageCount};

/// The estimates, and what feeds them.
#[derive(Debug, Default)]
pub(super) struct Measures {
    estimates: Estimates,
    rounds: RoundsInFlight,
    last_harvest_took: Duration,
}

impl Measures {
    /// What is known by now.
    pub(super) fn estimates(&self) -> &Estimates {
        &self.estimates
    }

    /// Tracking began.
    pub(super) fn armed(&mut self, now: Instant) {
        self.estimates.armed(now);
    }

    /// What stopping and starting the guest costs, as it was asked.
    pub(super) fn switchover_costs(&mut self, costs: SwitchoverCosts) {
        self.estimates.calibration.switchover(costs);
    }

    /// The link has another rate from now on.
    pub(super) fn link_changed(&mut self) {
        self.estimates.pages.forget_times();
    }

    /// A timer came so much late.
    pub(super) fn late(&mut self, late: Duration) {
        self.estimates.calibration.scheduling_delay.late(late);
    }

    /// A harvest took so long.
    pub(super) fn harvest_took(&mut self, time: Duration) {
        self.estimates.calibration.harvested(time);
        self.last_harvest_took = time;
    }

    /// How long the last harvest took.
    pub(super) fn last_harvest_took(&self) -> Duration {
        self.last_harvest_took
    }

    /// A round is over in which the guest wrote so many distinct pages, and lost `lost` of its work.
    pub(super) fn harvested(&mut self, now: Instant, written: PageCount, lost: LostWork) {
        self.estimates.harvested(now, written, lost);
    }

    /// Whether a ping is to go out, which is then under way: while pages are sent, as long as
    /// another answer would tell more; over a path that is free, unless one is under way. All that
    /// keeps the guest from being stopped may be that the pings before had to wait behind pages.
    pub(super) fn begin_ping(&mut self, now: Instant, path_is_free: bool) -> bool {
        let calibration = &mut self.estimates.calibration;
        let due = match path_is_free {
            true => !calibration.awaits_pong(),
            false => calibration.wants_ping(),
        };
        if due {
            calibration.pinged(now);
        }
        due
    }

    /// The answer to a ping came.
    pub(super) fn ponged(&mut self, now: Instant) {
        self.estimates.calibration.ponged(now);
    }

    /// A round begins.
    pub(super) fn begin_round(&mut self, now: Instant) {
        self.rounds.begin(now);
        self.estimates.link.begin(now);
    }

    /// A frame of the round is sent.
    pub(super) fn sent(&mut self, frame: &SentFrame) {
        let (pages, bytes) = frame.beyond_references();
        let delta = frame.delta + frame.unchanged;
        self.rounds.add(pages.0, frame.zero, delta, bytes);
    }

    /// The round is sent, over channels that have been handed so many frames.
    pub(super) fn end_round(&mut self, handed_out: impl Iterator<Item = u64>) {
        self.rounds.end(handed_out);
    }

    /// Whether the target has placed every round that was sent.
    pub(super) fn all_rounds_placed(&self) -> bool {
        self.rounds.is_empty()
    }

    /// The target has placed something; `frames` says how many of each channel it has by now.
    pub(super) fn placed<I: Iterator<Item = u64>>(
        &mut self,
        now: Instant,
        placed: &Placed,
        frames: impl Fn() -> I,
    ) {
        if placed.mostly_references {
            self.estimates.link.sent_references();
        }
        self.estimates.link.placed(now, placed.bytes);
        while let Some(round) = self.rounds.placed(now, frames()) {
            self.estimates.pages.round(round);
        }
    }

    /// All that was sent is placed, and nothing follows for now.
    pub(super) fn link_idles(&mut self, now: Instant) {
        self.estimates.link.end(now);
    }

    /// What is known of pages, the last round's included although it is not all acknowledged.
    pub(super) fn page_costs(&self, now: Instant, in_flight: ByteCount) -> PageCosts {
        let mut costs = self.estimates.pages.clone();
        let link = self.estimates.link.rate();
        if let Some(rest) = link.and_then(|link| in_flight.time_at(link))
            && let Some(round) = self.rounds.expected(now, rest)
        {
            costs.round(round);
        }
        costs
    }

    /// Bytes on the wire of a page of the round that was sent last, or is being sent.
    pub(super) fn round_page_bytes(&self) -> f64 {
        self.rounds.page_bytes().unwrap_or(PAGE_BYTES as f64)
    }
}
