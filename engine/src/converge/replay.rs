//! Runs a policy over a model of a guest and a link, in virtual time: rounds as numbers, with no
//! protocol and no pages.
//!
//! The model may be [recorded](super::Trace) or invented. A thousand runs take a second or two, so
//! policies can be compared over many guests, and a migration that went wrong can be run again
//! under another policy.
//!
//! A model knows how many pages are written and not which, so nothing is held back: a real
//! migration may do better (`migration/heat.rs`).

use std::time::Duration;

use super::trace::Record;
use super::{Decision, Observation, Policy, Share};
use crate::units::{ByteCount, Instant, PAGE_BYTES, PageCount, Rate};

/// A guest and the link that it leaves by.
pub trait Model {
    /// Pages to send in the first round.
    fn first_pages(&self) -> f64;

    /// Distinct pages that the guest, throttled by `throttled`, writes in the `time` up to `now`.
    fn distinct(&mut self, now: Duration, time: Duration, throttled: Share) -> f64;

    /// Bytes per second that the link carries in a round that begins at `now`.
    fn link(&mut self, now: Duration) -> f64;

    /// Cost of a blackout with nothing to send.
    fn fixed(&self) -> Duration;

    /// Mean bytes on the wire of a page.
    fn bytes_per_page(&self) -> f64 {
        PAGE_BYTES as f64
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ended {
    /// The guest was stopped, and stood still for this long.
    Completed {
        /// How long.
        blackout: Duration,
    },
    /// The guest stayed where it was.
    GaveUp,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Run {
    /// How it ended.
    pub ended: Ended,
    /// Time up to the stop, or to giving up.
    pub took: Duration,
    /// The largest throttle.
    pub throttle_most: Share,
    /// Seconds of full speed that the guest lost, the blackout included.
    pub harm_s: f64,
    /// Bytes sent.
    pub sent: ByteCount,
    /// What the policy saw and decided at the end of each round.
    pub records: Vec<Record>,
}

/// Time that a round takes at least: a harvest, and a message each way.
const LEAST_ROUND: Duration = Duration::from_millis(1);

/// How often the policy is asked within a round.
const TICK: Duration = Duration::from_secs(1);

/// Runs `policy` over `model`.
pub fn replay(model: &mut dyn Model, policy: &mut dyn Policy) -> Run {
    let mut run = Run {
        ended: Ended::GaveUp,
        took: Duration::ZERO,
        throttle_most: Share::NONE,
        harm_s: 0.0,
        sent: ByteCount(0),
        records: Vec::new(),
    };
    let (mut left, mut now, mut throttle) = (model.first_pages(), Duration::ZERO, Share::NONE);
    for round in 1.. {
        let began = now;
        let link = model.link(now).max(1.0);
        let bytes = left * model.bytes_per_page();
        let length = seconds(bytes / link) + LEAST_ROUND;
        now += length;
        run.sent += ByteCount(bytes as u64);
        run.harm_s += throttle.as_fraction() * length.as_secs_f64();
        left = model.distinct(now, length, throttle);
        let pages = PageCount(left as u64);
        let seen = Observation {
            now: at(now),
            elapsed: now,
            round,
            round_ended: true,
            left: pages,
            held: PageCount(0),
            in_flight: ByteCount(0),
            bytes_per_page: model.bytes_per_page(),
            link: Some(Rate(link as u64)),
            dirty: Rate::over(pages.bytes(), length),
            fixed: model.fixed(),
            harvested: pages,
            interval: length,
            throttled: throttle,
            placed: run.sent,
        };
        if let Some(gave_up_at) = ask_within(policy, &seen, began, now) {
            run.harm_s -= throttle.as_fraction() * (now - gave_up_at).as_secs_f64();
            run.took = gave_up_at;
            return run;
        }
        let decision = policy.decide(&seen);
        run.records.push(Record {
            seen,
            decision: decision.clone(),
        });
        run.took = now;
        match decision {
            Decision::Continue => {}
            Decision::Throttle(share) => {
                throttle = share;
                run.throttle_most = run.throttle_most.max(share);
            }
            Decision::Stop => {
                let link = model.link(now).max(1.0);
                let blackout = model.fixed() + seconds(left * model.bytes_per_page() / link);
                run.harm_s += blackout.as_secs_f64();
                run.ended = Ended::Completed { blackout };
                return run;
            }
            Decision::GiveUp(_) => return run,
        }
    }
    run
}

/// Asks the policy now and then within a round; when it gave up, if it did.
fn ask_within(
    policy: &mut dyn Policy,
    end: &Observation,
    began: Duration,
    ended: Duration,
) -> Option<Duration> {
    let mut tick = began + TICK;
    while tick < ended {
        let seen = Observation {
            now: at(tick),
            elapsed: tick,
            round_ended: false,
            ..*end
        };
        if matches!(policy.decide(&seen), Decision::GiveUp(_)) {
            return Some(tick);
        }
        tick += TICK;
    }
    None
}

/// A time span in seconds, at most a year.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.clamp(0.0, 3e7)).unwrap_or_default()
}

fn at(time: Duration) -> Instant {
    Instant(0).after(time)
}
