//! What unequal shares came to over a whole round.
//!
//! The policy thinks in one share for all, so that is what it is told; and rounds in which the
//! writers ran for much longer than it wanted say that telling vCPUs apart leads to nothing.

use std::time::Duration;

use super::SHORTEST;
use super::spread::{Vcpu, equal_share};
use crate::converge::ThrottleShare;
use crate::units::Instant;

/// A round in which the writers ran this many times as long as the policy wanted falls short; so
/// many in a row mean that telling vCPUs apart leads to nothing. Those in which something was
/// tried are no proof of that.
const SHORT: f64 = 1.5;
const SHORT_ROUNDS: u32 = 2;

/// The round under way, and what the last one came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    /// Seconds that each vCPU has run since the last round ended.
    ran: Vec<f64>,
    /// Whether shares differed since then; whether some of that was to learn from; and when that
    /// was.
    differed: bool,
    explored: bool,
    ended_at: Option<Instant>,
    length: Duration,
    effect: Option<ThrottleShare>,
    /// Rounds in a row in which the effect fell short.
    short_rounds: u32,
}

impl Round {
    /// From now on there are so many vCPUs.
    pub(super) fn of_vcpus(&mut self, vcpus: usize) {
        self.ran = vec![0.0; vcpus];
    }

    /// The vCPUs have run for `ran` more seconds each.
    pub(super) fn add(&mut self, ran: &[f64]) {
        for (sum, ran) in self.ran.iter_mut().zip(ran) {
            *sum += ran;
        }
    }

    /// Shares that differ are in force.
    pub(super) fn differs(&mut self) {
        self.differed = true;
    }

    /// Shares that differ are in force to learn from: what is written meanwhile is the price of
    /// that, and no sign that it leads to nothing.
    pub(super) fn explores(&mut self) {
        self.differed = true;
        self.explored = true;
    }

    /// It ends at `now`; `wanted` was wanted of these vCPUs, of which nothing is known if there
    /// are none here. Whether rounds have fallen short for long.
    pub(super) fn end(&mut self, now: Instant, wanted: ThrottleShare, vcpus: &[Vcpu]) -> bool {
        self.length = (self.ended_at.replace(now)).map_or(Duration::ZERO, |at| now.since(at));
        self.effect = None;
        if self.differed && !vcpus.is_empty() && self.length >= SHORTEST {
            let seconds = self.length.as_secs_f64();
            let runs: Vec<f64> = self.ran.iter().map(|ran| ran / seconds).collect();
            let effect = equal_share(vcpus, &runs);
            self.effect = Some(effect);
            let let_run = |share: ThrottleShare| 1.0 - share.as_fraction();
            let is_short = let_run(effect) > SHORT * let_run(wanted);
            self.short_rounds = match (is_short, self.explored) {
                (true, true) => self.short_rounds,
                (true, false) => self.short_rounds + 1,
                (false, _) => 0,
            };
        }
        self.ran.fill(0.0);
        self.differed = false;
        self.explored = false;
        let is_short = self.short_rounds >= SHORT_ROUNDS;
        if is_short {
            self.short_rounds = 0;
        }
        is_short
    }

    /// How long the last one was.
    pub(super) fn length(&self) -> Duration {
        self.length
    }

    /// The share for all that would have had the effect of the shares that were in force in the
    /// last one; `None`: it was one share for all.
    pub(super) fn effect(&self) -> Option<ThrottleShare> {
        self.effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rounds_in_a_row_that_fall_short_lead_to_nothing() {
        let vcpu = Vcpu {
            cost: 1000.0,
            cost_most: 1000.0,
            demand: 1.0,
        };
        let (mut round, wanted) = (Round::default(), ThrottleShare::permille(900));
        round.of_vcpus(2);
        let mut now = Instant(0);
        let mut ends = |ran: f64, differs: bool| {
            for _ in 0..10 {
                round.add(&[ran / 10.0, ran / 10.0]);
            }
            if differs {
                round.differs();
            }
            now = now.after(Duration::from_secs(1));
            let short = round.end(now, wanted, &[vcpu; 2]);
            (round.effect().map(ThrottleShare::as_permille), short)
        };
        ends(1.0, false);
        assert_eq!(ends(1.0, false), (None, false));
        assert_eq!(ends(0.1, true), (Some(900), false));
        assert_eq!(ends(0.3, true), (Some(700), false));
        assert_eq!(ends(0.1, true), (Some(900), false));
        assert_eq!(ends(0.3, true), (Some(700), false));
        assert_eq!(ends(0.3, true), (Some(700), true));
        assert_eq!(ends(0.3, true), (Some(700), false));
        // What an attempt costs does not count.
        round.explores();
        for _ in 0..4 {
            round.add(&[0.3, 0.3]);
            now = now.after(Duration::from_secs(1));
            assert!(!round.end(now, wanted, &[vcpu; 2]));
            round.explores();
        }
    }
}
