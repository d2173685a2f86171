//! Whether rounds get anywhere by themselves.
//!
//! Two questions that only what happens can answer: have rounds stopped getting smaller, and how
//! much more do they leave than was predicted? Pure.

use std::time::Duration;

use crate::converge::Observation;
use crate::units::{Instant, PageCount};

/// A round that leaves more than this share of what it began with makes no progress.
const PLATEAU: f64 = 0.85;

/// A round that leaves more than this share of what the one before left goes nowhere, whatever was
/// predicted.
const STANDSTILL: f64 = 0.97;

/// How much more than predicted the rounds are taken to leave after each round that went nowhere
/// although the prediction was that it all ends well, and the most of it.
const MORE_DOUBT: f64 = 1.05;
const MOST_DOUBT: f64 = 2.0;

/// The rounds so far.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Since when rounds have not been getting smaller.
    plateau_since: Option<Instant>,
    /// What was left after the round before.
    left_before: Option<f64>,
    /// What rounds leave, against what is predicted; from 1. Small errors of a prediction add up
    /// over its rounds: where it is a near thing whether they shrink, only what happens can tell.
    doubt: f64,
    /// What was left after the round before, whatever it was for.
    seen_before: Option<PageCount>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            plateau_since: None,
            left_before: None,
            doubt: 1.0,
            seen_before: None,
        }
    }
}

impl Progress {
    /// What predictions are to be multiplied by.
    pub(super) fn doubt(&self) -> f64 {
        self.doubt
    }

    /// Compares the last prediction, that it all ends well, with what came.
    pub(super) fn learn_to_doubt(&mut self, seen: &Observation) {
        let went_nowhere = self
            .seen_before
            .replace(seen.left)
            .is_some_and(|before| seen.left.0 as f64 > before.0 as f64 * STANDSTILL);
        if went_nowhere {
            self.doubt = (self.doubt * MORE_DOUBT).min(MOST_DOUBT);
        } else {
            self.doubt = 1.0 + (self.doubt - 1.0) / 2.0;
        }
    }

    /// Whether rounds have not been getting smaller for as long as `patience`; under a throttle
    /// they are not.
    pub(super) fn on_plateau(
        &mut self,
        seen: &Observation,
        is_throttled: bool,
        patience: Duration,
    ) -> bool {
        let left = seen.left.0 as f64;
        let before = self.left_before.replace(left);
        let shrinking = before.is_none_or(|before| left < before * PLATEAU);
        if shrinking && !is_throttled {
            self.plateau_since = None;
            return false;
        }
        let since = *self.plateau_since.get_or_insert(seen.now);
        // A round that began before the plateau was noticed is a part of it.
        seen.now.since(since) + seen.interval >= patience
    }

    /// It gets there by itself.
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
    fn doubt_grows_with_rounds_that_go_nowhere_and_goes_with_others() {
        let mut progress = Progress::default();
        for round in 0..30 {
            progress.learn_to_doubt(&seen(round * 1000, 2, 1000));
        }
        assert_eq!(progress.doubt(), MOST_DOUBT);
        progress.learn_to_doubt(&seen(40_000, 2, 500));
        progress.learn_to_doubt(&seen(41_000, 2, 250));
        assert!((progress.doubt() - 1.25).abs() < 1e-9);
    }
}
