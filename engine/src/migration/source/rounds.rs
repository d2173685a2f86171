//! Rounds: which pages are to be sent, and who sends them.
//!
//! When rounds end for good is the policy's to say: [`policy`](super::policy).
//!
//! Invariant: a page of a round is taken out of `pending` when it is handed to a channel, and
//! is in flight there from then on. Handing out a batch allocates nothing.

use std::time::Duration;

use super::policy::POLICY_TICK;
use super::types::{Batch, Work};
use super::{Source, State};
use crate::memory::PageBitmap;
use crate::migration::counters::SentFrame;
use crate::migration::error::MigrationError;
use crate::units::Instant;
use crate::wire::Message;

/// Pause before the next harvest when the last one found nothing. Rounds of nothing would follow
/// each other as fast as the processor allows, and measure the link by frames without pages.
const REST: Duration = Duration::from_millis(10);

/// Smallest share of a round worth a frame of its own when channels divide the end of it.
const SMALLEST_SHARE: u64 = 8;

impl Source {
    /// Tracking is armed, and `populated` holds every page that may differ from zero.
    pub fn armed(&mut self, now: Instant, populated: &PageBitmap) {
        self.pending.union(populated);
        // It may have failed while the caller was at it; so in the methods below.
        if self.state != State::Arming {
            return;
        }
        self.estimates.armed(now);
        self.pages.skipped = self.layout.pages().0 - populated.count().0;
        self.begin_round(now, State::Round);
    }

    /// `dirty` was written since the last harvest (or since arming).
    ///
    /// # Errors
    /// When the policy gives up.
    pub fn harvested(&mut self, now: Instant, dirty: &PageBitmap) -> Result<(), MigrationError> {
        self.mid_round.end(dirty, &mut self.pending);
        if self.state != State::Harvesting {
            return Ok(());
        }
        let written = self.mid_round.written();
        self.heat.harvested(written);
        let lost = self.response.lost(self.throttled());
        self.estimates.harvested(now, written.count(), lost);
        self.held_written = written.common(&self.held).0;
        let written = written.count().0 - self.held_written;
        self.take_back_held();
        let again = self.pending.count().0 - self.held_pages;
        self.mid_round.learn(written, again);
        self.take_returned();
        self.left = self.pending.count().0;
        self.look_ahead(now);
        self.ask_policy(now, true)?;
        if self.state == State::Harvesting {
            self.hold_back(now);
            // What was sent has arrived for the most part, so that the path is free now.
            self.ping_again(now);
            if self.left > 0 {
                self.begin_round(now, State::Round);
            } else {
                self.state = State::Resting;
                self.policy_due = now.after(REST);
            }
        }
        Ok(())
    }

    /// Whether the pages written so far are to be harvested while the round goes on.
    pub(super) fn is_harvest_due(&self, now: Instant) -> bool {
        let took = self.last_harvest_took;
        !self.cut_short && self.mid_round.is_due(now, self.left, took)
    }

    /// `dirty` was written since the last harvest, while the round goes on.
    pub fn harvested_within(&mut self, now: Instant, dirty: &PageBitmap) {
        let (waiting, left) = (&self.pending, self.left);
        self.mid_round.harvested(now, dirty, waiting, left);
    }

    /// `dirty` was harvested, but the harvest failed: it must not be lost.
    pub fn harvest_failed(&mut self, dirty: &PageBitmap) {
        self.pending.union(dirty);
    }

    /// The guest has stood still since `since`, and `dirty` was harvested after that.
    pub fn stopped(&mut self, since: Instant, now: Instant, dirty: &PageBitmap) {
        self.mid_round.end(dirty, &mut self.pending);
        self.take_back_held();
        self.held_pages = 0;
        if self.state != State::Stopping {
            return;
        }
        self.take_returned();
        self.times.guest_stopped = since;
        self.times.last_harvested = now;
        self.times.placed = now;
        self.begin_round(now, State::LastRound);
        let round = self.round;
        self.say(now, Message::LastRound { round });
    }

    /// What data channel number `channel` must do; `batch` takes the pages.
    pub fn next_work(&mut self, now: Instant, channel: u16, batch: &mut Batch) -> Work {
        match self.state {
            State::HandedOver | State::Completed | State::Failed => return Work::Close,
            State::Round | State::LastRound => {}
            _ => return Work::Wait,
        }
        let settled = self.all_is_placed();
        let is_last = self.state == State::LastRound;
        let answer_due = is_last && self.is_answer_due();
        let channels = self.channels.len() as u64;
        let Some(own) = self.channels.get_mut(usize::from(channel)) else {
            return Work::Close;
        };
        if own.round_ended || !own.in_flight.has_room() {
            return Work::Wait;
        }
        batch.round = self.round;
        batch.frame = own.in_flight.next_frame();
        batch.may_refer = !is_last;
        batch.runs.clear();
        // Towards the end of a round the channels share what is left, so that all end together.
        let share = (self.left / (2 * channels)).max(SMALLEST_SHARE);
        let mut room = share.min(self.frame_pages);
        if self.cut_short {
            room = 0;
        }
        while room > 0
            && let Some(run) = self.pending.next_run(self.cursor, room)
        {
            self.pending.remove(run);
            self.cursor = run.end();
            self.left -= run.count.0;
            room -= run.count.0;
            batch.runs.push(run);
        }
        if batch.runs.is_empty() && answer_due {
            // Something may be missing, and would go with this round.
            return Work::Wait;
        }
        self.answers.mark(batch);
        own.in_flight.hand_out(&batch.runs);
        if settled {
            self.acked_at = now;
        }
        if !batch.runs.is_empty() {
            batch.placed.clear();
            let channels = self.channels.iter();
            batch
                .placed
                .extend(channels.map(|channel| channel.in_flight.placed_frames()));
            return Work::Pages;
        }
        own.round_ended = true;
        if self.channels.iter().all(|channel| channel.round_ended) {
            self.end_round();
        }
        Work::RoundEnd(batch.round)
    }

    /// Work of data channel number `channel` is on the wire.
    pub fn sent(&mut self, channel: u16, frame: SentFrame) {
        if let Some(channel) = self.channels.get_mut(usize::from(channel)) {
            let (references, pages) = (frame.reference, frame.pages());
            channel.in_flight.sent(frame.bytes, references, pages);
        }
        self.pages.count(&frame);
        self.encoded += frame.encoded;
        self.stages += frame.stages;
        self.page_bytes += frame.bytes;
        let (pages, bytes) = frame.beyond_references();
        let delta = frame.delta + frame.unchanged;
        self.under_way.add(pages.0, frame.zero, delta, bytes);
    }

    /// Adds the pages that are not known to be placed at the target: they go back to the
    /// dirty source when the migration fails.
    pub fn undelivered(&self, into: &mut PageBitmap) {
        into.union(&self.pending);
        into.union(&self.held);
        self.mid_round.give_back(into);
        self.answers.add_returned(into);
        for channel in &self.channels {
            channel.in_flight.unplaced(into);
        }
    }

    /// Pages that were held back are to be sent, like all others.
    fn take_back_held(&mut self) {
        self.pending.union(&self.held);
        self.held.clear();
    }

    pub(super) fn begin_round(&mut self, now: Instant, state: State) {
        self.state = state;
        self.round += 1;
        self.cursor = 0;
        self.left = self.pending.count().0;
        self.under_way.begin(now);
        self.mid_round.begin(now, self.left);
        self.policy_due = now.after(POLICY_TICK);
        for channel in &mut self.channels {
            channel.round_ended = false;
        }
        self.estimates.link.begin(now);
    }

    pub(super) fn end_round(&mut self) {
        let frames = self.channels.iter().map(|own| own.in_flight.next_frame());
        self.under_way.end(frames);
        self.state = match self.state {
            State::LastRound => State::Completing,
            _ if std::mem::take(&mut self.cut_short) => State::Stopping,
            _ => State::Harvesting,
        };
    }
}
