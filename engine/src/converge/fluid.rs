//! A fluid model of a migration, for tests of policies: rounds under virtual time, with a guest
//! that writes random pages and a link that wavers. No protocol, no pages: only their numbers.

use std::time::Duration;

use super::{Decision, Observation, Policy, Share};
use crate::units::{ByteCount, Instant, PAGE_BYTES, PageCount, Rate};

/// A guest and its link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    /// Pages and writes per second of a hot set, and of the rest.
    pub(super) sets: [(f64, f64); 2],
    /// The guest all but stops writing after this time.
    pub(super) calm_from: Option<Duration>,
    /// Bytes per second of the link.
    pub(super) link: f64,
    /// The link's rate wavers by this much.
    pub(super) noise: f64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ended {
    Completed { blackout: Duration },
    GaveUp,
}

/// A run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fluid {
    pub(super) ended: Ended,
    pub(super) took: Duration,
    pub(super) throttle_most: Share,
    /// Seconds of full speed that the guest lost, the blackout included.
    pub(super) harm_s: f64,
}

/// Cost of a blackout with nothing to send.
const FIXED: Duration = Duration::from_millis(10);

impl Workload {
    /// Uniform writes over `pages`, on a link of 100 MB/s.
    pub(super) fn uniform(pages: u32, writes_per_s: f64) -> Self {
        let rest = (f64::from(pages), writes_per_s);
        Self {
            sets: [(1.0, 0.0), rest],
            calm_from: None,
            link: 100e6,
            noise: 0.05,
        }
    }

    /// Any guest.
    pub(super) fn seeded(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9).wrapping_add(1));
        let mut set = |most_pages: f64| {
            let pages = most_pages.powf(0.3 + 0.7 * random.unit());
            (pages, pages * 10f64.powf(random.unit() * 3.0 - 2.0))
        };
        let sets = [set(20_000.0), set(1_000_000.0)];
        Self {
            sets,
            calm_from: (random.unit() < 0.2).then(|| Duration::from_secs_f64(random.unit() * 60.0)),
            link: 10f64.powf(7.5 + random.unit() * 1.5),
            noise: random.unit() * 0.1,
        }
    }

    /// Distinct pages written in `time` of the guest's.
    fn distinct(&self, time: f64) -> f64 {
        let pages = |(pages, rate): (f64, f64)| pages * (1.0 - (-rate * time / pages).exp());
        self.sets.into_iter().map(pages).sum()
    }
}

impl Fluid {
    /// Runs a migration of a guest whose written sets are also all it has.
    pub(super) fn run(workload: Workload, policy: &mut dyn Policy, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut left = workload.sets[0].0 + workload.sets[1].0;
        let (mut now, mut round) = (0.0f64, 0u32);
        let (mut throttle, mut throttle_most, mut harm_s) = (Share::NONE, Share::NONE, 0.0);
        let mut sent = 0.0;
        loop {
            round += 1;
            let rate = workload.link * (1.0 + workload.noise * (random.unit() * 2.0 - 1.0));
            // Every round costs a millisecond of harvest at least.
            let length = left * PAGE_BYTES as f64 / rate + 0.001;
            let began = now;
            now += length;
            sent += left * PAGE_BYTES as f64;
            harm_s += throttle.as_fraction() * length;
            let calm = workload
                .calm_from
                .is_some_and(|from| now > from.as_secs_f64());
            let guest_time =
                length * (1.0 - throttle.as_fraction()) * if calm { 0.01 } else { 1.0 };
            let wobble = 1.0 + 0.05 * (random.unit() * 2.0 - 1.0);
            left = workload.distinct(guest_time) * wobble;
            let seen = Observation {
                now: Instant((now * 1e9) as u64),
                elapsed: Duration::from_secs_f64(now),
                round,
                round_ended: true,
                left: PageCount(left as u64),
                in_flight: ByteCount(0),
                bytes_per_page: PAGE_BYTES as f64,
                link: Some(Rate(rate as u64)),
                dirty: Rate::over(
                    PageCount(left as u64).bytes(),
                    Duration::from_secs_f64(length),
                ),
                fixed: FIXED,
                harvested: PageCount(left as u64),
                interval: Duration::from_secs_f64(length),
                throttled: throttle,
                placed: ByteCount(sent as u64),
            };
            // Within a long round the policy is asked as well; it may only give up there.
            let ticks = (1..)
                .map(|second| began + f64::from(second))
                .take_while(|at| *at < now);
            for at in ticks {
                let elapsed = Duration::from_secs_f64(at);
                let tick = Observation {
                    now: Instant((at * 1e9) as u64),
                    elapsed,
                    round_ended: false,
                    ..seen
                };
                if matches!(policy.decide(&tick), Decision::GiveUp(_)) {
                    let harm_s = harm_s - throttle.as_fraction() * (now - at);
                    return Self {
                        ended: Ended::GaveUp,
                        took: elapsed,
                        throttle_most,
                        harm_s,
                    };
                }
            }
            match policy.decide(&seen) {
                Decision::Continue => {}
                Decision::Throttle(share) => {
                    throttle = share;
                    throttle_most = throttle_most.max(share);
                }
                Decision::Stop => {
                    let wavers = 1.0 + workload.noise * (random.unit() * 2.0 - 1.0);
                    let sending = left * PAGE_BYTES as f64 / (workload.link * wavers);
                    let blackout = FIXED + Duration::from_secs_f64(sending);
                    harm_s += blackout.as_secs_f64();
                    let ended = Ended::Completed { blackout };
                    let took = Duration::from_secs_f64(now);
                    return Self {
                        ended,
                        took,
                        throttle_most,
                        harm_s,
                    };
                }
                Decision::GiveUp(_) => {
                    let took = Duration::from_secs_f64(now);
                    return Self {
                        ended: Ended::GaveUp,
                        took,
                        throttle_most,
                        harm_s,
                    };
                }
            }
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// A number from 0 to 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
