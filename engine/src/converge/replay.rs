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

use super::page_cost::RoundSent;
use super::span::finite;
use super::trace::Record;
use super::{
    BlackoutForecast, Decision, Estimates, FixedCosts, Forecast, Observation, Policy, Share,
};
use crate::units::{ByteCount, Instant, PAGE_BYTES, PageCount, Rate};

/// A guest and the link that it leaves by.
pub trait Model {
    /// Pages to send in the first round.
    fn first_pages(&self) -> f64;

    /// Distinct pages that the guest, throttled by `throttled`, writes in the `time` up to `now`.
    fn distinct(&mut self, now: Duration, time: Duration, throttled: Share) -> f64;

    /// Bytes per second that the link carries in a round that begins at `now`.
    fn link(&mut self, now: Duration) -> f64;

    /// Seconds that the processors need for each page of a round, at least; rounds after the first
    /// are of scattered pages.
    fn page_seconds(&mut self, _round: u32) -> f64 {
        0.0
    }

    /// What was rehearsed of a blackout's other costs.
    fn costs(&self) -> FixedCosts;

    /// What they turn out to be.
    fn fixed(&mut self) -> Duration;

    /// Mean bytes on the wire of a page, in a round that begins at `now`.
    fn bytes_per_page(&mut self, _now: Duration) -> f64 {
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
    /// The blackout that was forecast when the guest was stopped.
    pub forecast: Option<BlackoutForecast>,
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
        forecast: None,
        records: Vec::new(),
    };
    let mut estimates = Estimates::default();
    estimates.armed(at(Duration::ZERO));
    let (mut left, mut now, mut throttle) = (model.first_pages(), Duration::ZERO, Share::NONE);
    for round in 1.. {
        let began = now;
        let sent = sending(model, now, round, left);
        let length = sent.time + LEAST_ROUND;
        now += length;
        run.sent += sent.bytes;
        run.harm_s += throttle.as_fraction() * length.as_secs_f64();
        left = model.distinct(now, length, throttle);
        let pages = PageCount(left as u64);
        estimates.link.begin(at(began));
        estimates.link.placed(at(began + sent.time), sent.bytes);
        estimates.link.end(at(began + sent.time));
        estimates.pages.round(sent);
        estimates.harvested(at(now), pages, throttle);
        let link = estimates.link.rate();
        let seen = Observation {
            now: at(now),
            elapsed: now,
            round,
            round_ended: true,
            left: pages,
            held: PageCount(0),
            in_flight: ByteCount(0),
            bytes_per_page: estimates.pages.bytes(pages),
            round_page_bytes: sent.bytes.0 as f64 / sent.pages.0.max(1) as f64,
            page_time: estimates.pages.time(pages, &estimates.link, Duration::ZERO),
            link,
            dirty: Rate::over(pages.bytes(), length),
            fixed: model.costs(),
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
                let blackout = model.fixed() + sending(model, now, round + 1, left).time;
                run.harm_s += blackout.as_secs_f64();
                run.forecast = Forecast::of(&seen).blackout;
                run.ended = Ended::Completed { blackout };
                return run;
            }
            Decision::GiveUp(_) => return run,
        }
    }
    run
}

/// A round of `pages` pages that begins at `now`: as long as the link or the processors need.
fn sending(model: &mut dyn Model, now: Duration, round: u32, pages: f64) -> RoundSent {
    let bytes = pages * model.bytes_per_page(now);
    let by_link = bytes / model.link(now).max(1.0);
    RoundSent {
        pages: PageCount(pages as u64),
        zero: PageCount(0),
        delta: PageCount(0),
        bytes: ByteCount(bytes as u64),
        time: finite(by_link.max(pages * model.page_seconds(round))),
    }
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

fn at(time: Duration) -> Instant {
    Instant(0).after(time)
}
