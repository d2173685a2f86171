//! How many of the pages written in an interval had been marked before it.
//!
//! Marked pages grow as `work^exponent` after a harvest. Work is processor time weighted by what
//! each vCPU costs, in any unit. An interval from work `a` to work `b` shows
//! `b^e - a^e` of the `(b - a)^e` that it would show if it began with no page marked.

use crate::units::PageCount;

/// Less than this part of the pages of an interval seen: it says nothing.
const SEEN_LEAST: f64 = 0.05;

/// Looks of one round that are kept, and how many make an exponent.
const LOOKS_MOST: usize = 64;
const LOOKS_LEAST: usize = 5;

/// Weight of a round's exponent against those before it.
const NEW_WEIGHT: f64 = 0.5;

/// Smallest exponent: below, marks do not grow at all.
const EXPONENT_LEAST: f64 = 0.05;

/// The marks of the round under way.
#[derive(Clone, Debug)]
pub(super) struct Saturation {
    exponent: f64,
    /// Processor time of each vCPU since the harvest, and marked pages, at each look.
    looks: Vec<(Vec<f64>, f64)>,
    ran: Vec<f64>,
    /// What vCPUs cost, as far as it was known last; empty: alike.
    costs: Vec<f64>,
}

impl Default for Saturation {
    /// Every write goes to a new page, until it is known better.
    fn default() -> Self {
        Self {
            exponent: 1.0,
            looks: Vec::new(),
            ran: Vec::new(),
            costs: Vec::new(),
        }
    }
}

impl Saturation {
    /// The vCPUs have run for `ran` more, at `costs` if these are known, and `marked` pages are
    /// marked now: the part that was seen of the pages written meanwhile. `None`: too little.
    pub(super) fn seen(
        &mut self,
        ran: &[f64],
        costs: Option<&[f64]>,
        marked: PageCount,
    ) -> Option<f64> {
        self.costs = costs.unwrap_or_default().to_vec();
        if self.ran.len() != ran.len() {
            self.ran = vec![0.0; ran.len()];
        }
        let before = self.work(&self.ran);
        for (sum, ran) in self.ran.iter_mut().zip(ran) {
            *sum += ran;
        }
        let after = self.work(&self.ran);
        if self.looks.len() < LOOKS_MOST {
            self.looks.push((self.ran.clone(), marked.0 as f64));
        }
        if before <= 0.0 || after <= before {
            return Some(1.0);
        }
        let marks = |work: f64| work.powf(self.exponent);
        let seen = (marks(after) - marks(before)) / marks(after - before);
        (seen >= SEEN_LEAST).then_some(seen.min(1.0))
    }

    /// The marks are cleared: the looks since they were last say how they grew.
    pub(super) fn harvested(&mut self) {
        let points: Vec<(f64, f64)> = (self.looks.iter())
            .map(|(ran, marked)| (self.work(ran), *marked))
            .filter(|&(work, marked)| work > 0.0 && marked > 0.0)
            .map(|(work, marked)| (work.ln(), marked.ln()))
            .collect();
        if points.len() >= LOOKS_LEAST
            && let Some(slope) = slope(&points)
        {
            let slope = slope.clamp(EXPONENT_LEAST, 1.0);
            self.exponent += (slope - self.exponent) * NEW_WEIGHT;
        }
        self.looks.clear();
        self.ran.clear();
    }

    fn work(&self, ran: &[f64]) -> f64 {
        if self.costs.len() == ran.len() && self.costs.iter().any(|cost| *cost > 0.0) {
            self.costs.iter().zip(ran).map(|(a, b)| a * b).sum()
        } else {
            ran.iter().sum()
        }
    }
}

/// Slope of the line through `points`; `None` if they are all at one place.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let spread = mean(&|point| (point.0 - x).powi(2));
    (spread > 1e-6).then(|| mean(&|point| (point.0 - x) * (point.1 - y)) / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of ten looks in which marks grow as the power of the time; what the last look of
    /// each saw.
    fn rounds(exponent: f64, count: u32) -> Vec<Option<f64>> {
        let mut saturation = Saturation::default();
        let mut round = || {
            let mut seen = None;
            for look in 1..=10 {
                let marked = (1e4 * f64::from(look).powf(exponent)) as u64;
                seen = saturation.seen(&[0.1, 0.1], None, PageCount(marked));
            }
            saturation.harvested();
            seen
        };
        (0..count).map(|_| round()).collect()
    }

    #[test]
    fn new_pages_only_are_all_seen() {
        for seen in rounds(1.0, 4) {
            assert!(
                seen.is_some_and(|seen| (seen - 1.0).abs() < 1e-9),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn a_growing_part_was_marked_before() {
        let seen = rounds(0.5, 8);
        // Before anything is known, all; then 10^0.5 - 9^0.5.
        assert_eq!(seen[0], Some(1.0));
        let last = seen[7].unwrap();
        assert!((last - 0.162).abs() < 0.01, "{last}");
    }

    #[test]
    fn a_hot_set_that_is_all_marked_says_nothing() {
        assert_eq!(rounds(0.0, 8)[7], None);
    }
}
