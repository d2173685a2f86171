//! The limit of a coordinator's wait for a peer that answers and does not go on.

use crate::migration::{DECISION, DECISION_IF_CANCELLED};
use crate::units::Instant;

/// Counts from when the wait begins, and from when somebody asks for its end.
#[derive(Debug, Default)]
pub(super) struct Patience {
    waits_since: Option<Instant>,
    cancelled_at: Option<Instant>,
}

impl Patience {
    /// Whether it has an end, at `now`, if this side `waits` and `is_cancelled`.
    pub(super) fn is_over(&mut self, now: Instant, waits: bool, is_cancelled: bool) -> bool {
        if !waits {
            *self = Self::default();
            return false;
        }
        let since = *self.waits_since.get_or_insert(now);
        if is_cancelled {
            self.cancelled_at.get_or_insert(now);
        }
        let asked = self.cancelled_at;
        now.since(since) >= DECISION
            || asked.is_some_and(|asked| now.since(asked) >= DECISION_IF_CANCELLED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_beginning_of_each_wait() {
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        let mut patience = Patience::default();
        assert!(
            !patience.is_over(at(0), false, true),
            "nothing is waited for"
        );
        assert!(!patience.is_over(at(100), true, false));
        assert!(!patience.is_over(at(159), true, false));
        assert!(!patience.is_over(at(159), false, false), "it went on");
        assert!(!patience.is_over(at(160), true, false));
        assert!(patience.is_over(at(220), true, false));
    }

    #[test]
    fn a_cancellation_makes_it_short() {
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        let mut patience = Patience::default();
        assert!(!patience.is_over(at(10), true, true));
        assert!(!patience.is_over(at(11), true, true));
        assert!(patience.is_over(at(12), true, true));
    }
}
