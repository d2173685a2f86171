//! Whether unequal shares have the effect that they were made for.
//!
//! If the guest goes on writing more than was wanted, what was learned of its vCPUs is wrong.
//! Each time trust falls by a third, and comes back more slowly, with every look at which the
//! effect is there. When it is used up, nothing that was learned is used for a while.

use std::time::Duration;

use crate::units::Instant;

/// Weight of a look at which all that was written was seen, against those before it.
const WEIGHT: f64 = 0.25;

/// Writing this many times what was wanted, over the last looks, means that the costs are wrong;
/// this many, that they are right.
const WRONG: f64 = 1.5;
const RIGHT: f64 = 1.2;

/// What trust loses when the costs are wrong, and gains with each look at which they are right.
const LOSS: f64 = 0.34;
const GAIN: f64 = 0.1;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trust {
    level: f64,
    /// Mean of the logarithm of what was written over what was wanted, over the last looks.
    excess: f64,
    used_up_until: Instant,
}

impl Default for Trust {
    /// Full trust.
    fn default() -> Self {
        Self {
            level: 1.0,
            excess: 0.0,
            used_up_until: Instant(0),
        }
    }
}

impl Trust {
    /// From 0 to 1.
    pub(super) fn level(&self) -> f64 {
        self.level
    }

    /// Whether what was learned may be used at `now`.
    pub(super) fn is_there(&self, now: Instant) -> bool {
        now >= self.used_up_until
    }

    /// `pages` were written where `wanted` were wanted; of the pages, the `seen`th part (up to 1)
    /// was seen and the rest inferred. Whether trust is less than before.
    pub(super) fn saw(&mut self, pages: f64, wanted: f64, seen: f64) -> bool {
        // Few pages are more or less by chance.
        let chance = 3.0 * wanted.sqrt() + 16.0;
        let ratio = (pages / (wanted + chance)).clamp(0.2, 5.0);
        self.excess += WEIGHT * seen * (ratio.ln() - self.excess);
        if self.excess > WRONG.ln() {
            self.level -= LOSS;
            self.excess = 0.0;
            return true;
        }
        if self.excess < RIGHT.ln() {
            self.level = (self.level + GAIN).min(1.0);
        }
        false
    }

    /// Uses it up: the effect has been missing for long.
    pub(super) fn use_up(&mut self) {
        self.level = 0.0;
    }

    /// Whether it is used up; if so, it is for `time`, and begins anew after that.
    pub(super) fn is_used_up(&mut self, now: Instant, time: Duration) -> bool {
        let used_up = self.level <= 0.0;
        if used_up {
            *self = Self {
                used_up_until: now.after(time),
                ..Self::default()
            };
        }
        used_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_used_up_by_an_effect_that_does_not_come() {
        let (mut trust, now) = (Trust::default(), Instant(0));
        let looks = (1..100).find(|_| {
            trust.saw(50_000.0, 10_000.0, 1.0);
            trust.is_used_up(now, Duration::from_secs(1))
        });
        assert!(
            looks.is_some_and(|looks| (3..20).contains(&looks)),
            "{looks:?}"
        );
        assert!(!trust.is_there(now) && trust.is_there(now.after(Duration::from_secs(1))));
        for _ in 0..1000 {
            assert!(!trust.saw(11_000.0, 10_000.0, 1.0));
        }
        assert!(trust.level() >= 1.0);
        // Ten pages where two were wanted are no proof of anything.
        assert!((0..100).all(|_| !trust.saw(10.0, 2.0, 1.0)));
    }
}
