//! Estimates: what a migration measures of its guest, its link and its two machines while it runs.

mod calibration;
pub(super) mod curve;
pub(super) mod interval;
mod link_rate;
pub(super) mod page_cost;
mod scheduling_delay;

use std::time::Duration;

pub use calibration::{Calibration, FixedCosts, SwitchoverCosts};
pub use curve::DirtyCurve;
pub use interval::{COVERAGE, Interval};
pub use link_rate::LinkRate;
pub use page_cost::{PageCosts, PageTime, RoundSent};
pub use scheduling_delay::SchedulingDelay;

use super::LostWork;
use crate::units::{Instant, PAGE_BYTES, PageCount, Rate};

/// All estimates of a migration.
#[derive(Clone, Debug, Default)]
pub struct Estimates {
    /// See [`LinkRate`].
    pub link: LinkRate,
    /// See [`PageCosts`].
    pub pages: PageCosts,
    /// See [`Calibration`].
    pub calibration: Calibration,
    /// See [`DirtyCurve`].
    pub curve: DirtyCurve,
    /// When the dirty log was harvested last, or tracking began.
    harvested_at: Option<Instant>,
    /// Distinct pages of the last harvest, and the time in which they were written.
    last_harvest: PageCount,
    last_interval: Duration,
    /// Distinct pages written per second over the last round, in bytes.
    dirty: Option<Rate>,
}

impl Estimates {
    /// Tracking began: everything that is written from now on will be harvested.
    pub fn armed(&mut self, now: Instant) {
        self.harvested_at = Some(now);
    }

    /// A harvest found `pages` distinct pages, written by a guest that lost the part `lost` of its
    /// work to a throttle.
    pub fn harvested(&mut self, now: Instant, pages: PageCount, lost: LostWork) {
        if let Some(before) = self.harvested_at.replace(now) {
            self.last_harvest = pages;
            self.last_interval = now.since(before);
            self.dirty = Rate::over(pages.bytes(), self.last_interval).or(self.dirty);
            self.curve.harvested(now, self.last_interval, lost, pages);
        }
    }

    /// Distinct pages of the last harvest.
    pub fn last_harvest(&self) -> PageCount {
        self.last_harvest
    }

    /// Time in which the pages of the last harvest were written.
    pub fn last_interval(&self) -> Duration {
        self.last_interval
    }

    /// Distinct pages that the guest has written since the last harvest, at the rate of the last
    /// round.
    pub fn written_since_harvest(&self, now: Instant) -> PageCount {
        let since = self.harvested_at.map_or(Duration::ZERO, |at| now.since(at));
        let rate = self.dirty.map_or(0, |rate| rate.0);
        PageCount((rate as f64 * since.as_secs_f64()) as u64 / PAGE_BYTES as u64)
    }

    /// Rate of distinct pages written, over the last round.
    pub fn dirty(&self) -> Option<Rate> {
        self.dirty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn the_dirty_rate_counts_distinct_pages_over_the_round() {
        let mut estimates = Estimates::default();
        estimates.armed(at_ms(0));
        estimates.harvested(at_ms(500), PageCount(1000), LostWork::NONE);
        assert_eq!(estimates.dirty(), Some(Rate(1000 * 4096 * 2)));
        let later = estimates.written_since_harvest(at_ms(750));
        assert_eq!(later, PageCount(500));
    }
}
