//! Replay: runs a policy over a model of a guest and a link, in virtual time. Rounds are numbers;
//! there is no protocol, and there are no pages.
//!
//! The model is [recorded](super::Recorded) or invented. A thousand runs take a second or two, so
//! policies can be compared over many guests, and a migration that went wrong can be run again
//! under another policy.
//!
//! A model knows how many pages are written but not which, so nothing is held back: a real
//! migration may do better (`migration/heat.rs`).

use std::time::Duration;

use super::Record;
use crate::converge::estimate::interval::finite;
use crate::converge::{
    Decision, DowntimeForecast, Estimates, FixedCosts, Limits, LostWork, Observation, Policy,
    RoundSent, ThrottleResponse, ThrottleShare,
};
use crate::units::{ByteCount, Instant, PAGE_BYTES, PageCount, Rate};

/// A model of a guest and its link.
pub trait Model {
    /// Pages to send in the first round.
    fn first_pages(&self) -> f64;

    /// Distinct pages that the guest, throttled by `throttled`, writes in the `time` up to `now`.
    fn distinct(&mut self, now: Duration, time: Duration, throttled: ThrottleShare) -> f64;

    /// How the guest's work depends on its throttle, as far as it is known at `now`.
    fn response(&mut self, _now: Duration) -> ThrottleResponse {
        ThrottleResponse::default()
    }

    /// What the guest really loses of its work to a throttle at `now`.
    fn lost(&mut self, now: Duration, throttled: ThrottleShare) -> LostWork {
        self.response(now).lost(throttled)
    }

    /// Bytes per second that the link carries in a round that begins at `now`.
    fn link(&mut self, now: Duration) -> f64;

    /// Least seconds that the processors need for each page of a round; rounds after the first have
    /// scattered pages.
    fn page_seconds(&mut self, _round: u32) -> f64 {
        0.0
    }

    /// The limits, if the user has changed them since the last call.
    fn new_limits(&mut self, _now: Duration) -> Option<Limits> {
        None
    }

    /// The parts of a downtime beside its pages, as calibrated.
    fn costs(&self) -> FixedCosts;

    /// What these parts really take.
    fn fixed(&mut self) -> Duration;

    /// Mean bytes on the wire of a page, in a round that begins at `now`.
    fn bytes_per_page(&mut self, _now: Duration) -> f64 {
        PAGE_BYTES as f64
    }
}

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ended {
    /// The guest was stopped and moved.
    Completed {
        /// How long it stood still.
        downtime: Duration,
    },
    /// The policy gave up.
    GaveUp,
    /// Neither within a day.
    StillTrying,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its end.
    pub ended: Ended,
    /// Time until the policy stopped the guest or gave up.
    pub took: Duration,
    /// The strongest throttle.
    pub throttle_most: ThrottleShare,
    /// Work that the guest lost, in seconds at full speed, the downtime included.
    pub lost_work_s: f64,
    /// Bytes sent.
    pub sent: ByteCount,
    /// The downtime forecast when the guest was stopped.
    pub forecast: Option<DowntimeForecast>,
    /// What the policy saw and decided at the end of each round.
    pub records: Vec<Record>,
}

/// Least time of a round: a harvest, and a message each way.
const LEAST_ROUND: Duration = Duration::from_millis(1);

/// Time after which a run ends.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Rounds after which a run ends.
const MOST_ROUNDS: u32 = 1_000_000;

/// Time between two decisions within a round.
const WITHIN_ROUND: Duration = Duration::from_secs(1);

/// Runs `policy` over `model`.
pub fn replay(model: &mut dyn Model, policy: &mut dyn Policy) -> Run {
    let mut run = Run {
        ended: Ended::GaveUp,
        took: Duration::ZERO,
        throttle_most: ThrottleShare::NONE,
        lost_work_s: 0.0,
        sent: ByteCount(0),
        forecast: None,
        records: Vec::new(),
    };
    let mut estimates = Estimates::default();
    estimates.armed(at(Duration::ZERO));
    let (mut left, mut now, mut throttle) =
        (model.first_pages(), Duration::ZERO, ThrottleShare::NONE);
    for round in 1.. {
        let began = now;
        let sent = sending(model, now, round, left);
        let length = sent.time + LEAST_ROUND;
        now += length;
        run.sent += sent.bytes;
        let lost = model.lost(now, throttle).as_fraction();
        run.lost_work_s += lost * length.as_secs_f64();
        left = model.distinct(now, length, throttle);
        let pages = PageCount(left as u64);
        estimates.link.begin(at(began));
        estimates.link.placed(at(began + sent.time), sent.bytes);
        estimates.link.end(at(began + sent.time));
        estimates.pages.round(sent);
        let response = model.response(now);
        estimates.harvested(at(now), pages, response.lost(throttle));
        let link = estimates.link.rate();
        let seen = Observation {
            now: at(now),
            elapsed: now,
            round,
            round_ended: true,
            left: pages,
            held: PageCount(0),
            held_written: PageCount(0),
            in_flight: ByteCount(0),
            bytes_per_page: estimates.pages.bytes(pages),
            round_page_bytes: sent.bytes.0 as f64 / sent.pages.0.max(1) as f64,
            page_time: estimates.pages.time(pages, &estimates.link, Duration::ZERO),
            link,
            dirty: Rate::over(pages.bytes(), length),
            fixed: model.costs(),
            harvested: pages,
            between_harvests: length,
            throttled: throttle,
            response,
            placed: run.sent,
        };
        let within = ask_within(model, policy, &seen, began, now);
        if let Some((tick, share)) = within.throttled {
            // The guest wrote the rest of the round under the new share.
            let (before, after) = (tick - began, now - tick);
            left = model.distinct(now, before, throttle) + model.distinct(now, after, share);
            let lost = |model: &mut dyn Model, share| model.lost(now, share).as_fraction();
            run.lost_work_s += (lost(model, share) - lost(model, throttle)) * after.as_secs_f64();
            run.throttle_most = run.throttle_most.max(share);
            throttle = share;
        }
        if let Some((tick, stops)) = within.ended {
            let lost = model.lost(tick, throttle).as_fraction();
            run.lost_work_s -= lost * (now - tick).as_secs_f64();
            run.took = tick;
            if stops {
                let part = (now - tick).as_secs_f64() / length.as_secs_f64();
                let unsent = sent.pages.0 as f64 * part;
                let pages = unsent + model.distinct(tick, tick - began, throttle);
                let seen = Observation {
                    now: at(tick),
                    elapsed: tick,
                    ..seen
                };
                run.complete(model, &seen, pages);
            }
            return run;
        }
        let seen = Observation {
            left: PageCount(left as u64),
            harvested: PageCount(left as u64),
            throttled: throttle,
            ..seen
        };
        let limits = model.new_limits(now).or(within.limits);
        if let Some(limits) = &limits {
            policy.set_limits(limits);
        }
        let decision = policy.decide(&seen);
        run.records.push(Record {
            seen,
            decision: decision.clone(),
            limits,
        });
        run.took = now;
        match decision {
            Decision::Continue => {}
            Decision::Throttle(share) => {
                throttle = share;
                run.throttle_most = run.throttle_most.max(share);
            }
            Decision::Stop | Decision::Force => {
                run.complete(model, &seen, left);
                return run;
            }
            Decision::GiveUp(_) => return run,
        }
        if now >= LONGEST || round >= MOST_ROUNDS {
            run.ended = Ended::StillTrying;
            return run;
        }
    }
    run
}

/// A round of `pages` pages that begins at `now`, as long as the link or the processors need.
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

impl Run {
    /// The policy stopped the guest on what was `seen`, with `pages` pages to send.
    fn complete(&mut self, model: &mut dyn Model, seen: &Observation, pages: f64) {
        let last = sending(model, seen.elapsed, seen.round + 1, pages);
        let downtime = model.fixed() + last.time;
        self.lost_work_s += downtime.as_secs_f64();
        let left = PageCount(pages as u64);
        self.forecast = DowntimeForecast::of(&Observation { left, ..*seen });
        self.ended = Ended::Completed { downtime };
    }
}

/// What a policy did within a round.
#[derive(Default)]
struct Within {
    /// The last throttle, and when it came into force.
    throttled: Option<(Duration, ThrottleShare)>,
    /// When it ended the run, and whether by a stop.
    ended: Option<(Duration, bool)>,
    /// The newest limits.
    limits: Option<Limits>,
}

/// Has the policy decide several times within a round.
fn ask_within(
    model: &mut dyn Model,
    policy: &mut dyn Policy,
    end: &Observation,
    began: Duration,
    ended: Duration,
) -> Within {
    let mut within = Within::default();
    let mut tick = began + WITHIN_ROUND;
    while tick < ended.min(LONGEST) && within.ended.is_none() {
        if let Some(limits) = model.new_limits(tick) {
            policy.set_limits(&limits);
            within.limits = Some(limits);
        }
        let seen = Observation {
            now: at(tick),
            elapsed: tick,
            round_ended: false,
            ..*end
        };
        match policy.decide(&seen) {
            Decision::Continue => {}
            Decision::Throttle(share) => within.throttled = Some((tick, share)),
            Decision::Stop | Decision::Force => within.ended = Some((tick, true)),
            Decision::GiveUp(_) => within.ended = Some((tick, false)),
        }
        tick += WITHIN_ROUND;
    }
    within
}

fn at(time: Duration) -> Instant {
    Instant(0).after(time)
}
