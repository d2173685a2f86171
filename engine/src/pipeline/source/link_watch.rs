//! Watches the connection of a channel: what it holds, what flows over it, and whether the target or
//! the link is to blame for waiting.
//!
//! The target says how long its channel waited for something to do. Where it hardly waits it is the
//! bottleneck, and to pack for it would make it slower still. A closed receive window would tell less:
//! a window closes while a frame is placed, whoever is ahead, and one that is smaller than what the
//! path holds limits a connection of which the target reads everything at once.

use std::time::Duration;

use crate::codec::choose::LinkConditions;
use crate::pipeline::clock::{Clock, Unused};
use crate::transport::{SendQueue, SendStats};
use crate::units::{ByteCount, Instant, Rate};
use crate::wire::Waited;

/// How often the conditions of the link are taken together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Time between two looks where somebody needs to know: a look takes 2 to 4 us, a frame of zeros
/// that is read and marked 80.
const OFTEN: Duration = Duration::from_millis(1);

/// Time between two looks where nobody needs to know what the connection holds.
const SELDOM: Duration = Duration::from_millis(5);

/// Share of its time that a target's channel waits from which on it is not to blame for anything.
const UNBLAMED: f64 = 0.2;

/// The watch over one connection.
#[derive(Debug, Default)]
pub(super) struct LinkWatch {
    looked_at: Option<Instant>,
    /// Its queue at the last look.
    queue: Option<SendQueue>,
    /// How things stood when the conditions were last taken together, at first when the first frame
    /// was written; `None` before.
    together: Option<Together>,
    /// Reading, encoding and writing frames since then, and the waiting in it.
    active: Duration,
    waited: Duration,
    /// How far the target is to blame, 0 to 1, as of its last word.
    blame: f64,
}

/// How things stood at a moment.
#[derive(Clone, Copy, Debug)]
struct Together {
    at: Instant,
    unused: Option<Unused>,
    /// For how long the connection had been busy.
    busy: Option<Duration>,
    told: Told,
}

/// What the target has said so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// Bytes on the wire that it has placed, over all channels.
    pub(super) placed: ByteCount,
    /// How long this channel waited there, if it says.
    pub(super) waited: Option<Waited>,
}

/// What a frame took.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameTime {
    /// From reading its pages until it was written.
    pub(super) all: Duration,
    /// Of that, waiting for the connection to take it.
    pub(super) waited: Duration,
}

impl LinkWatch {
    /// Looks, before a frame is written, if the last look was a while ago; `often`, where
    /// somebody needs to know. The queue of the connection at the last look, if it can tell.
    pub(super) fn look(
        &mut self,
        now: Instant,
        often: bool,
        stats: impl FnOnce() -> SendStats,
    ) -> Option<SendQueue> {
        let pause = if often { OFTEN } else { SELDOM };
        if self.looked_at.is_none_or(|at| now.since(at) >= pause) {
            self.looked_at = Some(now);
            self.queue = stats().queue;
        }
        self.queue
    }

    /// A frame was written. Now and then, takes the conditions of the link together, and of the
    /// `processors` where somebody needs to know. Returns them, and for how much of the waiting
    /// since the last time the target is to blame.
    pub(super) fn sent(
        &mut self,
        now: Instant,
        frame: FrameTime,
        processors: Option<&dyn Clock>,
        stats: impl FnOnce() -> SendStats,
        told: impl FnOnce() -> Told,
    ) -> Option<(LinkConditions, Duration)> {
        self.active += frame.all;
        self.waited += frame.waited;
        if let Some(before) = &self.together
            && now.since(before.at) < TOGETHER
        {
            return None;
        }
        let stats = stats();
        let standing = Together {
            at: now,
            unused: processors.and_then(Clock::unused),
            busy: stats.busy,
            told: told(),
        };
        let (active, waited) = (
            std::mem::take(&mut self.active),
            std::mem::take(&mut self.waited),
        );
        // What went before the first frame says nothing of those that follow.
        let before = self.together.replace(standing)?;
        if let Some(share) = waited_since(before.told.waited, standing.told.waited) {
            self.blame = 1.0 - (share / UNBLAMED).min(1.0);
        }
        let placed = standing.told.placed.0.saturating_sub(before.told.placed.0);
        let conditions = LinkConditions {
            placed: Rate::over(ByteCount(placed), active),
            carrying: before.busy.zip(standing.busy).and_then(|(then, end)| {
                let share = end.saturating_sub(then).div_duration_f64(active);
                share.is_finite().then_some(share.min(1.0))
            }),
            cap: stats.rate_cap,
            target_limited: self.blame,
            idle: before.unused.zip(standing.unused).map(|(then, end)| {
                let time = end.time.saturating_sub(then.time);
                time.div_duration_f64(now.since(before.at) * u32::from(end.processors))
            }),
        };
        Some((conditions, waited.mul_f64(self.blame)))
    }
}

/// The share of its time in which a channel waited between two words of the target; `None` if it
/// said nothing.
fn waited_since(before: Option<Waited>, now: Option<Waited>) -> Option<f64> {
    let (before, now) = (before.unwrap_or_default(), now?);
    let elapsed = now.elapsed_us.checked_sub(before.elapsed_us)?;
    let waited = now.waited_us.saturating_sub(before.waited_us);
    (elapsed > 0).then(|| waited as f64 / elapsed as f64)
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

    const BEGIN: Instant = Instant(1_000_000_000);

    /// A frame that took one interval and waited for half of it.
    const FRAME: FrameTime = FrameTime {
        all: TOGETHER,
        waited: Duration::from_millis(25),
    };

    /// The target's word after so many intervals, in which it waited for so many milliseconds.
    fn told(intervals: u64, waited_ms: u64) -> Told {
        Told {
            placed: ByteCount(intervals * 1_000_000),
            waited: Some(Waited {
                channel: 0,
                waited_us: waited_ms * 1000,
                elapsed_us: intervals * 50_000,
            }),
        }
    }

    /// The conditions after a frame that ends so many intervals from the beginning.
    fn taken_after(
        watch: &mut LinkWatch,
        intervals: u32,
        processors: &Unwanted,
        stats: SendStats,
    ) -> Option<LinkConditions> {
        let now = BEGIN.after(TOGETHER * intervals);
        let (conditions, _) = watch.sent(now, FRAME, Some(processors), || stats, Told::default)?;
        Some(conditions)
    }

    #[test]
    fn a_target_that_hardly_waits_is_to_blame() {
        let mut watch = LinkWatch::default();
        let mut blamed = |intervals: u32, told: Told| {
            let now = BEGIN.after(TOGETHER * intervals);
            let (conditions, blamed) = watch.sent(now, FRAME, None, SendStats::default, || told)?;
            assert_eq!(conditions.placed, Some(Rate(20_000_000)));
            Some((conditions.target_limited, blamed.as_millis()))
        };
        assert_eq!(blamed(0, told(0, 0)), None, "nothing went before");
        assert_eq!(blamed(1, told(1, 30)), Some((0.0, 0)));
        assert_eq!(blamed(2, told(2, 30)), Some((1.0, 25)));
        assert_eq!(blamed(3, told(3, 35)), Some((0.5, 12)));
        let silent = Told {
            placed: told(4, 0).placed,
            ..told(3, 35)
        };
        assert_eq!(blamed(4, silent), Some((0.5, 12)), "as of its last word");
    }

    #[test]
    fn a_target_that_says_nothing_is_not_blamed() {
        let mut watch = LinkWatch::default();
        for interval in 0..3u32 {
            let now = BEGIN.after(TOGETHER * interval);
            let taken = watch.sent(now, FRAME, None, SendStats::default, Told::default);
            if let Some((conditions, blamed)) = taken {
                assert_eq!(conditions.target_limited, 0.0);
                assert_eq!(blamed, Duration::ZERO);
                assert_eq!(conditions.idle, None);
            }
        }
    }

    #[test]
    fn looks_are_spared_where_nobody_asks() {
        let mut watch = LinkWatch::default();
        let mut looks = 0;
        let mut look = |now, often| {
            let queue = watch.look(now, often, || {
                looks += 1;
                SendStats {
                    queue: Some(SendQueue {
                        queued_bytes: looks,
                        capacity_bytes: 1000,
                    }),
                    ..SendStats::default()
                }
            });
            queue.unwrap().queued_bytes
        };
        let seldom = (0..100).map(|step| look(BEGIN.after(Duration::from_millis(step)), false));
        assert_eq!(seldom.last(), Some(20));
        let begin = BEGIN.after(Duration::from_millis(100));
        let often = (0..100).map(|step| look(begin.after(Duration::from_micros(200 * step)), true));
        assert_eq!(often.last(), Some(40));
    }

    #[test]
    fn a_connection_is_busy_for_a_share_of_the_active_time() {
        let clock = Unwanted(AtomicU64::new(0));
        let mut watch = LinkWatch::default();
        let mut busy_ms = 0;
        let mut carrying = |intervals: u32, more_ms| {
            busy_ms += more_ms;
            let stats = SendStats {
                busy: Some(Duration::from_millis(busy_ms)),
                ..SendStats::default()
            };
            taken_after(&mut watch, intervals, &clock, stats)?.carrying
        };
        assert_eq!(carrying(0, 70), None, "what went before says nothing");
        assert_eq!(carrying(1, 25), Some(0.5));
        assert_eq!(carrying(2, 0), Some(0.0));
        assert_eq!(carrying(4, 80), Some(1.0), "after a rest");
    }

    #[test]
    fn idle_is_what_nobody_used_of_all_processors_since_the_last_time() {
        let clock = Unwanted(AtomicU64::new(1000));
        let mut watch = LinkWatch::default();
        let mut idle = |intervals: u32, unused_ms| {
            clock.0.fetch_add(unused_ms, Ordering::Relaxed);
            taken_after(&mut watch, intervals, &clock, SendStats::default())?.idle
        };
        assert_eq!(idle(0, 70), None, "the first frame is the beginning");
        assert_eq!(idle(1, 50), Some(0.25));
        assert_eq!(idle(2, 0), Some(0.0));
        assert_eq!(idle(4, 400), Some(1.0));
    }
}
