//! The limit of the guest's standstill on the source.

use std::time::Duration;

use super::Source;
use crate::migration::error::MigrationError;
use crate::units::{ByteCount, Instant};

impl Source {
    /// How long the guest may stand still before it is handed over, as the limits are now.
    pub fn longest_standstill(&self) -> Duration {
        let allowed = self.convergence.policy.downtime_limit();
        let digested = match self.verify {
            true => self.layout.pages().bytes(),
            false => ByteCount(0),
        };
        self.downtime_limit.time(allowed, digested)
    }

    /// When the guest, which stands still here, goes on unless it is handed over before. `None`
    /// while it runs, and once it is being relinquished.
    pub fn standstill_ends(&self) -> Option<Instant> {
        let switchover = self.state.switchover()?;
        let stopped_at = switchover.stopped_at()?;
        let forced = switchover.decision().forced;
        let from = match forced && self.downtime_limit.counts_from_progress() {
            true => switchover.since().max(self.channels.progress_at()),
            false => stopped_at,
        };
        Some(from.after(self.longest_standstill()))
    }

    /// Time has passed.
    ///
    /// # Errors
    /// When the guest has stood still for as long as it may.
    pub(super) fn check_standstill(&self, now: Instant) -> Result<(), MigrationError> {
        match self.standstill_ends() {
            Some(end) if now >= end => Err(MigrationError::DowntimeLimit {
                limit: self.longest_standstill(),
                phase: self.phase().name(),
            }),
            _ => Ok(()),
        }
    }
}
