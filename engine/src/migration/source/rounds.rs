//! Rounds: which pages are to be sent, and by which channel.
//!
//! When rounds end for good is the policy's to say: [`policy`](super::policy). Handing out a batch
//! allocates nothing.

use std::time::Duration;

use super::Source;
use super::policy::POLICY_TICK;
use super::state::{Precopy, State};
use super::types::{Batch, Work};
use crate::memory::PageBitmap;
use crate::migration::counters::SentFrame;
use crate::migration::error::MigrationError;
use crate::units::Instant;
use crate::wire::Message;

/// Pause before the next harvest when the last one found nothing. Rounds of nothing would follow
/// each other as fast as the processor allows, and measure the link by frames without pages.
const IDLE: Duration = Duration::from_millis(10);

/// Smallest share of a round worth a frame of its own when channels divide the end of it.
const SMALLEST_SHARE: u64 = 8;

impl Source {
    /// Tracking is armed, and `populated` holds every page that may differ from zero.
    pub fn armed(&mut self, now: Instant, populated: &PageBitmap) {
        self.send_set.add(populated);
        // It may have failed while the caller was at it; so in the methods below.
        if !matches!(self.state, State::Arming) {
            return;
        }
        self.measures.armed(now);
        self.totals.pages.skipped = self.layout.pages().0 - populated.count().0;
        self.state = State::round();
        self.begin_round(now);
    }

    /// `dirty` was written since the last harvest (or since arming).
    ///
    /// # Errors
    /// When the policy ends the migration.
    pub fn harvested(&mut self, now: Instant, dirty: &PageBitmap) -> Result<(), MigrationError> {
        self.send_set.harvested(dirty);
        if !self.is_harvesting() {
            return Ok(());
        }
        let written = self.send_set.close_round();
        let lost = self.throttle.lost_work();
        self.measures.harvested(now, written, lost);
        self.take_returned();
        self.send_set.count();
        self.take_convergence_status(now);
        self.ask_policy(now, true)?;
        if self.is_harvesting() {
            self.hold_back(now);
            // What was sent has arrived for the most part, so that the path is free now.
            self.ping_over_free_path(now);
            if self.send_set.left().0 > 0 {
                self.state = State::round();
                self.begin_round(now);
            } else {
                self.state = State::Precopy(Precopy::Idle);
                self.convergence.ask_at = now.after(IDLE);
            }
        }
        Ok(())
    }

    fn is_harvesting(&self) -> bool {
        matches!(self.state, State::Precopy(Precopy::Harvesting))
    }

    /// The next harvest that is handed over took so long.
    pub fn harvest_took(&mut self, time: Duration) {
        self.measures.harvest_took(time);
    }

    /// `dirty` was written since the last harvest, while the round goes on.
    pub fn harvested_within(&mut self, now: Instant, dirty: &PageBitmap) {
        self.send_set.harvested_within(now, dirty);
    }

    /// `dirty` was harvested, but the harvest failed: it must not be lost.
    pub fn harvest_failed(&mut self, dirty: &PageBitmap) {
        self.send_set.add(dirty);
    }

    /// The guest has stood still since `since`, and of what it wrote last `part` is known by now: it goes
    /// already. A page may be in several parts.
    pub fn stopped_in_part(&mut self, since: Instant, now: Instant, part: &PageBitmap) {
        let begins = match self.state.switchover_mut() {
            Some(switchover) if switchover.is_stopping() => {
                switchover.stopped_in_part(since);
                true
            }
            _ => false,
        };
        if begins {
            self.send_set.hold_all();
        }
        self.send_set.harvested_in_part(part);
        if begins {
            self.begin_last_round(now);
        }
    }

    /// The guest has stood still since `since`; `dirty` was harvested after that, beside what was told in
    /// parts.
    pub fn stopped(&mut self, since: Instant, now: Instant, dirty: &PageBitmap) {
        self.send_set.harvested_last(dirty);
        let took = self.measures.last_harvest_took();
        let begins = match self.state.switchover_mut() {
            Some(switchover) if switchover.awaits_harvest() => {
                let begins = switchover.is_stopping();
                switchover.stopped(since, now, took);
                begins
            }
            _ => return,
        };
        if begins {
            self.begin_last_round(now);
        }
    }

    fn begin_last_round(&mut self, now: Instant) {
        self.take_returned();
        self.begin_round(now);
        let round = self.round;
        self.peer.send(now, Message::LastRound { round });
    }

    /// What data channel number `channel` must do; `batch` takes the pages.
    pub fn next_work(&mut self, now: Instant, channel: u16, batch: &mut Batch) -> Work {
        if self.state.sends_no_more() || !self.channels.has(channel) {
            return Work::Close;
        }
        let is_last = self.state.is_last_round();
        let is_round = is_last || self.state.is_round();
        if !is_round || !self.channels.takes_more(channel) {
            return Work::Wait;
        }
        batch.round = self.round;
        batch.may_refer = !is_last;
        batch.runs.clear();
        if self.state.hands_out_pages() {
            // Towards the end of a round the channels share what is left, so that all end together.
            let share = self.send_set.left().0 / (2 * self.channels.count());
            let most = share.max(SMALLEST_SHARE).min(self.frame_pages);
            self.send_set.take(most, &mut batch.runs);
        }
        if batch.runs.is_empty()
            && is_last
            && (self.channels.is_answer_due() || self.state.awaits_harvest())
        {
            // Something may be missing, or found, and would go with this round.
            return Work::Wait;
        }
        self.missing_pages.mark(batch);
        self.channels.hand_out(now, channel, &batch.runs);
        if !batch.runs.is_empty() {
            return Work::Pages;
        }
        if self.channels.end_round(channel) {
            self.measures.end_round(self.channels.handed_out_frames());
            self.state.round_sent(self.verify);
        }
        Work::RoundEnd(batch.round)
    }

    /// Whether the target has placed all pages of all rounds before the one under way. Only then may pages
    /// of this round be written to its memory without it: the barrier between rounds, on this side.
    pub fn earlier_rounds_placed(&self) -> bool {
        self.measures.all_rounds_placed()
    }

    /// Work of data channel number `channel` is on the wire.
    pub fn sent(&mut self, channel: u16, frame: SentFrame) {
        self.channels.sent(channel, &frame);
        self.totals.count(&frame);
        self.measures.sent(&frame);
    }

    /// Adds the pages that are not known to be placed at the target: they go back to the
    /// dirty source when the migration fails.
    pub fn undelivered(&self, into: &mut PageBitmap) {
        self.send_set.add_unsent(into);
        self.missing_pages.add_returned(into);
        self.channels.add_unplaced(into);
    }

    fn begin_round(&mut self, now: Instant) {
        self.round += 1;
        self.send_set.begin_round(now);
        self.channels.begin_round();
        self.measures.begin_round(now);
        self.convergence.ask_at = now.after(POLICY_TICK);
    }
}
