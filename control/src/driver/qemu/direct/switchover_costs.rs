//! What QEMU's own part of a downtime costs, as far as that can be known without stopping the
//! guest.
//!
//! QEMU has no dry run of a hand-over: the size of its device state is known when it has been
//! saved, and saving needs a guest that stands still. What can be measured is how fast its main
//! loop answers, by which every step of a hand-over has to go; the rest are stated defaults, from
//! hand-overs of small guests (docs/decisions/022).

use std::time::{Duration, Instant};

use pagelift_engine::converge::{Interval, SwitchoverCosts};
use serde_json::Value;

use crate::qmp::Qmp;

/// Questions to the monitor; each takes QEMU's main loop about 0.1 ms.
const QUESTIONS: usize = 5;

/// MissingPages of the main loop that are waited for: one event for the stop; `migrate-continue` and
/// the status it leads to; the commit's status, the agent's answer, and `cont` on the target.
const TRIPS: [u32; 3] = [1, 2, 3];

/// The costs of a guest whose QEMU is reached by `qmp`.
pub(super) fn measure(qmp: &Qmp) -> SwitchoverCosts {
    let answers: Vec<Duration> = (0..QUESTIONS)
        .filter_map(|_| {
            let asked = Instant::now();
            // A QEMU that does not answer fails the migration elsewhere.
            qmp.execute("query-status", Value::Null).ok()?;
            Some(asked.elapsed())
        })
        .collect();
    let trip = Interval::of_samples(&answers).unwrap_or_default();
    let [stop, state, hand_over] =
        TRIPS.map(|trips| (0..trips).fold(Interval::default(), |sum, _| sum.then(trip)));
    SwitchoverCosts {
        stop: stop.then(interval(600, 1200, 2500)),
        stop_latency: interval(500, 2000, 6000),
        state: state.then(interval(1000, 1800, 4500)),
        hand_over: hand_over.then(interval(100, 400, 1500)),
    }
}

/// A stated default, in microseconds.
fn interval(low: u64, likely: u64, high: u64) -> Interval {
    let us = Duration::from_micros;
    Interval::new(us(low), us(likely), us(high))
}
