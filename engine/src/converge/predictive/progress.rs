//! Progress of the rounds: whether they make any, and how much more they leave than predicted.

use std::time::Duration;

use crate::converge::Observation;
use crate::converge::policy::{PROGRESS, STANDSTILL};
use crate::units::{Instant, PageCount};

/// Factor by which the margin grows with a round that goes nowhere, and the largest margin. Small
/// errors of a prediction multiply over its rounds, so a small step is enough; a guest that leaves
/// twice what was predicted is not near the edge any more (docs/decisions/025).
const MARGIN_STEP: f64 = 1.05;
const MARGIN_MOST: f64 = 2.0;

/// The rounds so far.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Since when rounds have made no progress.
    plateau_since: Option<Instant>,
    /// What was left after the round before.
    left_before: Option<f64>,
    /// Factor by which rounds are expected to leave more than predicted; from 1.
    margin: f64,
    /// Pages left after the round before, as the margin counts.
    seen_before: Option<PageCount>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            plateau_since: None,
            left_before: None,
            margin: 1.0,
            seen_before: None,
        }
    }
}

impl Progress {
    /// Factor by which rounds are expected to leave more than predicted, 1 to 2.
    pub(super) fn margin(&self) -> f64 {
        self.margin
    }

    /// Takes the round that has ended into the margin: whether rounds near the edge shrink can only
    /// be seen, not predicted.
    pub(super) fn adjust_margin(&mut self, seen: &Observation) {
        let went_nowhere = self
            .seen_before
            .replace(seen.left)
            .is_some_and(|before| seen.left.0 as f64 > before.0 as f64 * STANDSTILL);
        if went_nowhere {
            self.margin = (self.margin * MARGIN_STEP).min(MARGIN_MOST);
        } else {
            self.margin = 1.0 + (self.margin - 1.0) / 2.0;
        }
    }

    /// Whether rounds have made no progress for as long as `patience`; those under a throttle count
    /// as none.
    pub(super) fn on_plateau(
        &mut self,
        seen: &Observation,
        is_throttled: bool,
        patience: Duration,
    ) -> bool {
        let left = seen.left.0 as f64;
        let before = self.left_before.replace(left);
        let shrinking = before.is_none_or(|before| left < before * PROGRESS);
        if shrinking && !is_throttled {
            self.plateau_since = None;
            return false;
        }
        let since = *self.plateau_since.get_or_insert(seen.now);
        // A round that began before the plateau was noticed is a part of it.
        seen.now.since(since) + seen.between_harvests >= patience
    }

    /// Rounds get there without a throttle.
    pub(super) fn goes_well(&mut self) {
        self.plateau_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::converge::forecast::downtime::tests::seen;

    #[test]
    fn a_plateau_takes_patience_and_a_smaller_round_ends_it() {
        let (mut progress, patience) = (Progress::default(), Duration::from_secs(2));
        let mut at = |ms, left| progress.on_plateau(&seen(ms, 2, left), false, patience);
        assert!(!at(1000, 1000), "the first says nothing");
        assert!(!at(2000, 900), "a second of two");
        assert!(at(3000, 890));
        assert!(!at(4000, 700));
        assert!(!at(5000, 690));
    }

    #[test]
    fn the_margin_grows_with_rounds_that_go_nowhere_and_shrinks_with_others() {
        let mut progress = Progress::default();
        for round in 0..30 {
            progress.adjust_margin(&seen(round * 1000, 2, 1000));
        }
        assert_eq!(progress.margin(), MARGIN_MOST);
        progress.adjust_margin(&seen(40_000, 2, 500));
        progress.adjust_margin(&seen(41_000, 2, 250));
        assert!((progress.margin() - 1.25).abs() < 1e-9);
    }
}
