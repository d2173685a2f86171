//! Liveness of the other side.
//!
//! Silence alone proves nothing: a coordinator that was busy for a while (stopping a guest,
//! digesting a large memory) has neither asked nor listened. So only an unanswered question
//! counts: a machine asks after [`HEARTBEAT`] of silence, and gives the other side the rest of
//! [`PEER_SILENCE`] from that moment on.

use super::{HEARTBEAT, PEER_SILENCE};
use crate::units::Instant;

/// What is known of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is due.
    Alive,
    /// It must be asked whether it is there, or told that this side is.
    PingDue,
    /// It has not answered.
    Dead,
}

/// When the two sides last heard of each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Liveness {
    heard_at: Instant,
    sent_at: Instant,
    /// When it was first asked since something was heard.
    asked_at: Option<Instant>,
}

impl Liveness {
    /// Begins at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard_at: now,
            sent_at: now,
            asked_at: None,
        }
    }

    /// Something came in.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.asked_at = None;
    }

    /// Something goes out.
    pub(super) fn sent(&mut self, now: Instant) {
        self.sent_at = now;
    }

    /// Time has passed.
    pub(super) fn check(&mut self, now: Instant) -> Verdict {
        match self.asked_at {
            Some(asked) if now.since(asked) >= PEER_SILENCE - HEARTBEAT => Verdict::Dead,
            None if now.since(self.heard_at) >= HEARTBEAT => {
                self.asked_at = Some(now);
                Verdict::PingDue
            }
            _ if now.since(self.sent_at) >= HEARTBEAT => Verdict::PingDue,
            _ => Verdict::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn an_unanswered_question_ends_after_the_silence_allowed() {
        let mut liveness = Liveness::new(at_ms(0));
        assert_eq!(liveness.check(at_ms(900)), Verdict::Alive);
        assert_eq!(liveness.check(at_ms(1000)), Verdict::PingDue);
        liveness.sent(at_ms(1000));
        assert_eq!(liveness.check(at_ms(1500)), Verdict::Alive);
        assert_eq!(
            liveness.check(at_ms(2000)),
            Verdict::PingDue,
            "so that it hears us"
        );
        assert_eq!(liveness.check(at_ms(5000)), Verdict::Dead);
    }

    #[test]
    fn time_in_which_nobody_asked_or_listened_does_not_count() {
        let mut liveness = Liveness::new(at_ms(0));
        assert_eq!(
            liveness.check(at_ms(60_000)),
            Verdict::PingDue,
            "busy for a minute"
        );
        liveness.sent(at_ms(60_000));
        liveness.heard(at_ms(60_010));
        assert_eq!(liveness.check(at_ms(60_020)), Verdict::Alive);
    }
}
