//! What each vCPU writes per second of its processor time, where that is counted.

use std::time::Duration;

/// Age at which a count has half its weight. The guest's scheduler moves its work about: a vCPU that
/// begins to write shows it within that time, and counts of a few samples tell the vCPUs apart.
const HALF_LIFE: Duration = Duration::from_secs(1);

/// Least processor time, in seconds, that a cost is divided by: a vCPU that has not run has cost
/// nothing so far.
const SECONDS_LEAST: f64 = 1e-6;

/// The counts, by vCPU; empty before the first one.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Pages and seconds of processor time, falling with age.
    sums: Vec<(f64, f64)>,
    /// Their quotients.
    costs: Vec<f64>,
}

impl Counts {
    /// In `time` each vCPU ran for its part of `ran`, in seconds, and wrote its part of `pages`.
    pub(super) fn add(&mut self, time: Duration, ran: &[f64], pages: impl Iterator<Item = u64>) {
        let keep = 0.5f64.powf(time.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.sums.resize(ran.len(), (0.0, 0.0));
        for ((sums, ran), pages) in self.sums.iter_mut().zip(ran).zip(pages) {
            *sums = (sums.0 * keep + pages as f64, sums.1 * keep + ran);
        }
        let cost = |&(pages, seconds): &(f64, f64)| pages / seconds.max(SECONDS_LEAST);
        self.costs.clear();
        self.costs.extend(self.sums.iter().map(cost));
    }

    /// Pages per second of processor time, by vCPU; empty before the first count.
    pub(super) fn costs(&self) -> &[f64] {
        &self.costs
    }
}
