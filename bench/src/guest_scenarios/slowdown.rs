//! Slowdown integral: the work that a move costs the guest, by its own account.
//!
//! The guest says in every tick how many pages it has written so far. Before the move that gives
//! the pages it writes in a second at full speed. What it wrote from the start of the move until
//! it had run on the target for a while, divided by that, is the time it would have needed at
//! full speed; all other time was lost: throttled, stopped, waiting for page faults or for a CPU
//! that the move used. Time passes on the host's clock, since the guest's stands still in the
//! downtime. Quiet phases, by the guest's clock, are no time to lose.

use std::ops::Range;
use std::time::{Duration, Instant};

use pagelift_tests::Phases;
use pagelift_tests::ticks::Tick;

/// A guest's work before and during a move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    /// Pages written per second at full speed.
    pub(crate) pages_per_s: f64,
    /// Time watched, from the last tick before the move to the first at or after the end.
    pub(crate) watched_s: f64,
    /// Time lost of it; a little below zero if the guest was faster than before.
    pub(crate) lost_s: f64,
}

/// When a guest is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// It runs at full speed.
    pub(crate) warm: Instant,
    /// The move begins.
    pub(crate) began: Instant,
    /// It has run for a while after the move.
    pub(crate) end: Instant,
}

impl Work {
    /// What `threads` of the guest did and lost. `None` for threads that did nothing before the move, or whose ticks do not reach from one
    /// end of the span to the other.
    pub(crate) fn of(
        ticks: &[Tick],
        threads: Range<usize>,
        phases: Option<Phases>,
        span: Span,
    ) -> Option<Self> {
        let first = ticks.iter().find(|tick| tick.at >= span.warm)?;
        let start = ticks.iter().rfind(|tick| tick.at <= span.began)?;
        let end = ticks.iter().find(|tick| tick.at >= span.end)?;
        let full = Stretch::between(first, start, &threads, phases);
        let moved = Stretch::between(start, end, &threads, phases);
        let pages_per_s = full.pages / full.busy_s;
        (pages_per_s > 0.0 && pages_per_s.is_finite()).then(|| Self {
            pages_per_s,
            watched_s: moved.host_s,
            lost_s: moved.busy_s - moved.pages / pages_per_s,
        })
    }
}

/// What a guest did from one tick to another.
struct Stretch {
    pages: f64,
    host_s: f64,
    /// Of these, without its quiet phases.
    busy_s: f64,
}

impl Stretch {
    fn between(from: &Tick, to: &Tick, threads: &Range<usize>, phases: Option<Phases>) -> Self {
        let writes = |tick: &Tick| tick.writes[threads.clone()].iter().sum::<u64>();
        let host_s = to.at.saturating_duration_since(from.at).as_secs_f64();
        let quiet_ms = phases.map_or(0, |phases| {
            let all_ms = to.mono_ms.saturating_sub(from.mono_ms);
            all_ms - phases.busy_within_ms(from.mono_ms, from.mono_ms + all_ms)
        });
        Self {
            pages: writes(to).saturating_sub(writes(from)) as f64,
            host_s,
            busy_s: host_s - Duration::from_millis(quiet_ms).as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks 100 ms apart by both clocks, with so many writes each.
    fn ticks(start: Instant, writes: &[u64]) -> Vec<Tick> {
        let mut total = 0;
        let tick = |(number, more): (u64, &u64)| {
            total += more;
            Tick {
                number,
                writes: vec![total],
                sums: vec![0],
                mono_ms: number * 100,
                bad: 0,
                at: start + Duration::from_millis(number * 100),
                host: 0,
            }
        };
        (0..).zip(writes).map(tick).collect()
    }

    fn span(start: Instant, began: u64, end: u64) -> Span {
        Span {
            warm: start,
            began: start + Duration::from_millis(began),
            end: start + Duration::from_millis(end),
        }
    }

    #[test]
    fn half_speed_for_a_second_loses_half_a_second() {
        let start = Instant::now();
        let writes = [[10; 20].as_slice(), &[5; 10], &[10; 10]].concat();
        let work = Work::of(&ticks(start, &writes), 0..1, None, span(start, 1950, 3850));
        let work = work.expect("it wrote");
        assert!((work.pages_per_s - 100.0).abs() < 1e-9, "{work:?}");
        assert!((work.watched_s - 2.0).abs() < 1e-9, "{work:?}");
        assert!((work.lost_s - 0.5).abs() < 1e-9, "{work:?}");
    }

    #[test]
    fn quiet_phases_are_not_lost_but_a_blackout_in_one_is() {
        let start = Instant::now();
        let phases = Some(Phases {
            busy_ms: 500,
            quiet_ms: 500,
        });
        // A tick tells of the time before it.
        let cycle = [&[10_u64; 5][..], &[0; 5]].concat();
        let writes = [&[0], &cycle[..], &cycle, &cycle, &cycle].concat();
        let mut list = ticks(start, &writes);
        let work = Work::of(&list, 0..1, phases, span(start, 2000, 4000)).expect("it wrote");
        assert!((work.pages_per_s - 100.0).abs() < 1e-9, "{work:?}");
        assert!(work.lost_s.abs() < 1e-9, "{work:?}");
        // The guest's clock stands still from its tick 28 on for a second.
        for tick in &mut list[28..] {
            tick.at += Duration::from_secs(1);
        }
        let work = Work::of(&list, 0..1, phases, span(start, 2000, 5000)).expect("it wrote");
        assert!((work.lost_s - 1.0).abs() < 1e-9, "{work:?}");
    }

    #[test]
    fn nothing_can_be_said_of_an_idle_guest() {
        let start = Instant::now();
        assert_eq!(
            Work::of(&ticks(start, &[0; 40]), 0..1, None, span(start, 2000, 3500)),
            None
        );
        assert_eq!(
            Work::of(&ticks(start, &[1; 40]), 0..1, None, span(start, 2000, 9000)),
            None
        );
    }
}
