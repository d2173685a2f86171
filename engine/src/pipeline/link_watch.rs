//! Watches the connection of a channel: what it holds, and whether the target or the link is to
//! blame for waiting.

use std::time::Duration;

use super::link::{Gauge, Held, Reading};
use crate::codec::choose::LinkConditions;
use crate::units::{Instant, Rate};

/// How often the conditions of the link are taken together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Time between two looks where somebody needs to know: a look takes 2 us, a frame of zeros that
/// is read and marked 80.
const OFTEN: Duration = Duration::from_micros(250);

/// Time between two looks where nobody needs to know what the connection holds.
const SELDOM: Duration = Duration::from_millis(5);

/// The watch over one connection.
pub(super) struct LinkWatch {
    gauge: Box<dyn Gauge>,
    looked_at: Option<Instant>,
    /// The last look that told anything, and what the connection held at the last one.
    last: Reading,
    held: Option<Held>,
    /// When the conditions were last taken together, and how the connection was then.
    together_at: Instant,
    before: Reading,
    /// Looks since then that found data waiting, and those that found the window closed.
    looks: u32,
    closed: u32,
    /// Waiting for the connection since then.
    waited: Duration,
}

impl std::fmt::Debug for LinkWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkWatch").finish_non_exhaustive()
    }
}

impl LinkWatch {
    /// Watches by `gauge` from `now` on.
    pub(super) fn new(gauge: Box<dyn Gauge>, now: Instant) -> Self {
        Self {
            gauge,
            looked_at: None,
            last: Reading::default(),
            held: None,
            together_at: now,
            before: Reading::default(),
            looks: 0,
            closed: 0,
            waited: Duration::ZERO,
        }
    }

    /// Looks, before a frame is written, if the last look was a while ago; `often`, where
    /// somebody needs to know. What the connection held at the last look, if it can tell.
    pub(super) fn look(&mut self, now: Instant, often: bool) -> Option<Held> {
        let pause = if often { OFTEN } else { SELDOM };
        if self.looked_at.is_some_and(|at| now.since(at) < pause) {
            return self.held;
        }
        self.looked_at = Some(now);
        let reading = self.gauge.look();
        self.held = reading.map(|reading| reading.held);
        self.last = reading?;
        if self.last.held.bytes > 0 {
            self.looks += 1;
            self.closed += u32::from(self.last.window_closed);
        }
        self.held
    }

    /// Writing a frame has waited for so long. Now and then, takes the conditions of the link
    /// together; `placed` is the rate of all channels. Returns them, and for how much of the
    /// waiting since the last time the target is to blame.
    pub(super) fn waited(
        &mut self,
        now: Instant,
        waited: Duration,
        placed: impl FnOnce() -> Option<Rate>,
    ) -> Option<(LinkConditions, Duration)> {
        self.waited += waited;
        if now.since(self.together_at) < TOGETHER {
            return None;
        }
        let busy = self.last.busy.saturating_sub(self.before.busy);
        let limited = self
            .last
            .window_limited
            .saturating_sub(self.before.window_limited);
        let mut target_limited = 0.0;
        if self.looks > 0 && !busy.is_zero() {
            let closed = f64::from(self.closed) / f64::from(self.looks);
            target_limited = limited.div_duration_f64(busy).min(closed);
        }
        let conditions = LinkConditions {
            placed: placed(),
            cap: self.gauge.cap(),
            target_limited,
        };
        let blamed = self.waited.mul_f64(target_limited);
        self.together_at = now;
        self.before = self.last;
        (self.looks, self.closed, self.waited) = (0, 0, Duration::ZERO);
        Some((conditions, blamed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that is limited by the receiver's window, which is open or closed.
    struct Limited {
        busy: Duration,
        window_closed: bool,
    }

    impl Gauge for Limited {
        fn look(&mut self) -> Option<Reading> {
            self.busy += Duration::from_millis(10);
            Some(Reading {
                busy: self.busy,
                window_limited: self.busy.mul_f64(0.8),
                window_closed: self.window_closed,
                held: Held {
                    bytes: 1,
                    room_bytes: 2,
                },
            })
        }
    }

    #[test]
    fn a_window_that_is_open_is_not_the_targets_fault() {
        for window_closed in [true, false] {
            let begin = Instant(1_000_000_000);
            let gauge = Box::new(Limited {
                busy: Duration::ZERO,
                window_closed,
            });
            let mut watch = LinkWatch::new(gauge, begin);
            let mut blamed = Duration::ZERO;
            for tick in 1..=100u64 {
                let now = begin.after(Duration::from_millis(10) * tick as u32);
                assert!(watch.look(now, true).is_some());
                if let Some((conditions, part)) =
                    watch.waited(now, Duration::from_millis(5), || None)
                {
                    let limited = conditions.target_limited;
                    assert_eq!(limited > 0.0, window_closed, "{limited}");
                    blamed += part;
                }
            }
            let share = blamed.as_secs_f64() / 0.5;
            assert!(window_closed == (share > 0.7), "{share}");
        }
    }

    #[test]
    fn looks_are_spared_where_nobody_asks() {
        let begin = Instant(1_000_000_000);
        let gauge = Box::new(Limited {
            busy: Duration::ZERO,
            window_closed: false,
        });
        let mut watch = LinkWatch::new(gauge, begin);
        for step in 0..100 {
            let now = begin.after(Duration::from_millis(step));
            assert!(watch.look(now, false).is_some());
        }
        assert_eq!(watch.looks, 20);
        for step in 0..100 {
            let now = begin.after(Duration::from_micros(100_000 + 50 * step));
            assert!(watch.look(now, true).is_some());
        }
        assert_eq!(watch.looks, 40);
    }
}
