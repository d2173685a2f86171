//! Whether a client that is silent is still there: pure, with the time as an argument.

use std::time::{Duration, Instant};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this moment.
    At(Instant),
    /// The client is to be asked, now.
    Ping,
    /// The client has not answered often enough.
    Dead,
}

/// Questions and answers with one client.
#[derive(Debug)]
pub(super) struct Keepalive {
    interval: Duration,
    count: u32,
    unanswered: u32,
    last: Instant,
}

impl Keepalive {
    /// A client that said something at `now`, is asked after `interval` of silence, and is taken for
    /// dead after `count` questions without an answer.
    pub(super) const fn new(interval: Duration, count: u32, now: Instant) -> Self {
        Self {
            interval,
            count,
            unanswered: 0,
            last: now,
        }
    }

    /// The client said something, whatever it was.
    pub(super) const fn heard(&mut self, now: Instant) {
        self.unanswered = 0;
        self.last = now;
    }

    /// What is due at `now`.
    pub(super) fn poll(&mut self, now: Instant) -> Due {
        let next = self.last + self.interval;
        if now < next {
            return Due::At(next);
        }
        if self.unanswered >= self.count {
            return Due::Dead;
        }
        self.unanswered += 1;
        self.last = now;
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_silent_client_is_asked_and_then_given_up() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(5 * SECOND, 2, start);
        assert_eq!(keepalive.poll(start + SECOND), Due::At(start + 5 * SECOND));
        assert_eq!(keepalive.poll(start + 5 * SECOND), Due::Ping);
        assert_eq!(
            keepalive.poll(start + 6 * SECOND),
            Due::At(start + 10 * SECOND)
        );
        assert_eq!(keepalive.poll(start + 10 * SECOND), Due::Ping);
        assert_eq!(keepalive.poll(start + 15 * SECOND), Due::Dead);
    }

    #[test]
    fn a_client_that_says_something_is_alive() {
        let start = Instant::now();
        let mut keepalive = Keepalive::new(5 * SECOND, 1, start);
        assert_eq!(keepalive.poll(start + 5 * SECOND), Due::Ping);
        keepalive.heard(start + 6 * SECOND);
        assert_eq!(
            keepalive.poll(start + 7 * SECOND),
            Due::At(start + 11 * SECOND)
        );
        assert_eq!(keepalive.poll(start + 11 * SECOND), Due::Ping);
    }
}
