//! Whether the other side is still there.
//!
//! Silence alone proves nothing: a coordinator that was busy for a while (stopping a guest,
//! digesting a large memory) has neither asked nor listened. So only an unanswered question
//! counts: the watch asks after [`HEARTBEAT`] of silence, and gives the other side the rest of
//! [`PEER_SILENCE`] from that moment on.

use super::{HEARTBEAT, PEER_SILENCE};
use crate::units::Instant;

/// What to do about the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    Nothing,
    /// Ask whether it is there, or let it know that this side is.
    Ping,
    /// It has not answered.
    Dead,
}

/// When the two sides heard of each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Liveness {
    heard: Instant,
    said: Instant,
    /// The first question since something was heard.
    asked: Option<Instant>,
}

impl Liveness {
    /// Begins at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            said: now,
            asked: None,
        }
    }

    /// Something came in.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
    }

    /// Something goes out.
    pub(super) fn said(&mut self, now: Instant) {
        self.said = now;
    }

    /// Time has passed.
    pub(super) fn look(&mut self, now: Instant) -> Watch {
        match self.asked {
            Some(asked) if now.since(asked) >= PEER_SILENCE - HEARTBEAT => Watch::Dead,
            None if now.since(self.heard) >= HEARTBEAT => {
                self.asked = Some(now);
                Watch::Ping
            }
            _ if now.since(self.said) >= HEARTBEAT => Watch::Ping,
            _ => Watch::Nothing,
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
        let mut watch = Liveness::new(at_ms(0));
        assert_eq!(watch.look(at_ms(900)), Watch::Nothing);
        assert_eq!(watch.look(at_ms(1000)), Watch::Ping);
        watch.said(at_ms(1000));
        assert_eq!(watch.look(at_ms(1500)), Watch::Nothing);
        assert_eq!(watch.look(at_ms(2000)), Watch::Ping, "so that it hears us");
        assert_eq!(watch.look(at_ms(5000)), Watch::Dead);
    }

    #[test]
    fn time_in_which_nobody_asked_or_listened_does_not_count() {
        let mut watch = Liveness::new(at_ms(0));
        assert_eq!(watch.look(at_ms(60_000)), Watch::Ping, "busy for a minute");
        watch.said(at_ms(60_000));
        watch.heard(at_ms(60_010));
        assert_eq!(watch.look(at_ms(60_020)), Watch::Nothing);
    }
}
