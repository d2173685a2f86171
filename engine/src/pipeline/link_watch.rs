//! Watches the connection of a channel: what it holds, and whether the target or the link is to
//! blame for waiting.

use std::time::Duration;

use super::clock::{Clock, Unused};
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
    /// When the conditions were last taken together, and how the connection was then, and the
    /// processors.
    together_at: Instant,
    before: Reading,
    unused: Option<Unused>,
    /// Looks since then that told anything, and those that found the window closed.
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
    /// Watches by `gauge` from now on.
    pub(super) fn new(gauge: Box<dyn Gauge>, clock: &dyn Clock) -> Self {
        Self {
            gauge,
            looked_at: None,
            last: Reading::default(),
            held: None,
            together_at: clock.now(),
            before: Reading::default(),
            unused: clock.unused(),
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
        self.looks += 1;
        self.closed += u32::from(self.last.window_closed);
        self.held
    }

    /// Writing a frame has waited for so long. Now and then, takes the conditions of the link
    /// together, and of the `processors` where somebody needs to know; `placed` is the rate of all
    /// channels. Returns them, and for how much of the waiting since the last time the target is
    /// to blame.
    pub(super) fn waited(
        &mut self,
        now: Instant,
        waited: Duration,
        processors: Option<&dyn Clock>,
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
        let unused = processors.and_then(Clock::unused);
        let passed = now.since(self.together_at);
        let conditions = LinkConditions {
            placed: placed(),
            cap: self.gauge.cap(),
            target_limited,
            idle: self.unused.zip(unused).map(|(then, now)| {
                let time = now.time.saturating_sub(then.time);
                time.div_duration_f64(passed * u32::from(now.processors))
            }),
        };
        self.unused = unused;
        let blamed = self.waited.mul_f64(target_limited);
        self.together_at = now;
        self.before = self.last;
        (self.looks, self.closed, self.waited) = (0, 0, Duration::ZERO);
        Some((conditions, blamed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Where so many milliseconds of four processors were not used.
    struct Unwanted(AtomicU64);

    impl Clock for Unwanted {
        fn now(&self) -> Instant {
            BEGIN
        }

        fn unused(&self) -> Option<Unused> {
            let time = Duration::from_millis(self.0.load(Ordering::Relaxed));
            let processors = 4;
            Some(Unused { time, processors })
        }
    }

    /// The clock of a machine that tells nothing.
    struct Silent;

    impl Clock for Silent {
        fn now(&self) -> Instant {
            BEGIN
        }
    }

    const BEGIN: Instant = Instant(1_000_000_000);

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
            let gauge = Box::new(Limited {
                busy: Duration::ZERO,
                window_closed,
            });
            let mut watch = LinkWatch::new(gauge, &Silent);
            let mut blamed = Duration::ZERO;
            for tick in 1..=100u64 {
                let now = BEGIN.after(Duration::from_millis(10) * tick as u32);
                assert!(watch.look(now, true).is_some());
                let waited = Duration::from_millis(5);
                if let Some((conditions, part)) = watch.waited(now, waited, None, || None) {
                    assert_eq!(conditions.idle, None);
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
        let gauge = Box::new(Limited {
            busy: Duration::ZERO,
            window_closed: false,
        });
        let mut watch = LinkWatch::new(gauge, &Silent);
        for step in 0..100 {
            let now = BEGIN.after(Duration::from_millis(step));
            assert!(watch.look(now, false).is_some());
        }
        assert_eq!(watch.looks, 20);
        for step in 0..100 {
            let now = BEGIN.after(Duration::from_micros(100_000 + 50 * step));
            assert!(watch.look(now, true).is_some());
        }
        assert_eq!(watch.looks, 40);
    }

    #[test]
    fn a_window_that_is_closed_now_and_then_is_blamed_now_and_then() {
        /// Limited by its window always, which is closed at each fourth look.
        struct Seldom(u64);
        impl Gauge for Seldom {
            fn look(&mut self) -> Option<Reading> {
                self.0 += 1;
                let busy = Duration::from_millis(self.0);
                Some(Reading {
                    busy,
                    window_limited: busy,
                    window_closed: self.0.is_multiple_of(4),
                    ..Reading::default()
                })
            }
        }
        let mut watch = LinkWatch::new(Box::new(Seldom(0)), &Silent);
        for tick in 1..=40 {
            watch.look(BEGIN.after(Duration::from_millis(tick)), true);
        }
        let (conditions, blamed) = watch
            .waited(BEGIN.after(TOGETHER), TOGETHER, None, || None)
            .unwrap();
        assert_eq!(conditions.target_limited, 0.25);
        assert_eq!(blamed, TOGETHER / 4);
    }

    #[test]
    fn idle_is_what_nobody_used_of_all_processors_since_the_last_time() {
        let clock = Unwanted(AtomicU64::new(1000));
        let gauge = Box::new(super::super::link::NoGauge);
        let mut watch = LinkWatch::new(gauge, &clock);
        let mut idle = |intervals: u32, unused_ms| {
            clock.0.fetch_add(unused_ms, Ordering::Relaxed);
            let now = BEGIN.after(TOGETHER * intervals);
            let (conditions, _) = watch.waited(now, Duration::ZERO, Some(&clock), || None)?;
            conditions.idle
        };
        assert_eq!(idle(1, 50), Some(0.25));
        assert_eq!(idle(2, 0), Some(0.0));
        assert_eq!(idle(4, 400), Some(1.0));
    }
}
