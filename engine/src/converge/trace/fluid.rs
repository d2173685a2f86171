//! Invented guests and links, for the tests of policies: sets of pages with uniform writes, over a
//! link whose rate wavers.

use std::time::Duration;

use super::replay::{Model, Run, replay};
use crate::converge::{FixedCosts, Interval, LostWork, Policy, ThrottleResponse, ThrottleShare};

/// A guest and its link.
#[derive(Clone, Copy, Debug)]
pub(in crate::converge) struct Workload {
    /// Pages and writes per second of a hot set, and of the rest.
    pub(in crate::converge) sets: [(f64, f64); 2],
    /// The guest all but stops writing after this time.
    pub(in crate::converge) calm_from: Option<Duration>,
    /// The part of its processors that it wants.
    pub(in crate::converge) demand: f64,
    /// Bytes per second of the link.
    pub(in crate::converge) link: f64,
    /// The link's rate wavers by this much.
    pub(in crate::converge) noise: f64,
    /// Seconds that a scattered page costs the processors.
    pub(in crate::converge) page_s: f64,
    /// Median of what a downtime costs beside its pages, and how it is spread.
    pub(in crate::converge) fixed: (Duration, f64),
}

impl Workload {
    /// Uniform writes over `pages`, on a link of 100 MB/s.
    pub(in crate::converge) fn uniform(pages: u32, writes_per_s: f64) -> Self {
        let rest = (f64::from(pages), writes_per_s);
        Self {
            sets: [(1.0, 0.0), rest],
            calm_from: None,
            demand: 1.0,
            link: 100e6,
            noise: 0.05,
            page_s: 4e-6,
            fixed: (Duration::from_millis(10), 0.05),
        }
    }

    /// Any guest.
    pub(in crate::converge) fn seeded(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9).wrapping_add(1));
        let mut set = |most_pages: f64| {
            let pages = most_pages.powf(0.3 + 0.7 * random.unit());
            (pages, pages * 10f64.powf(random.unit() * 3.0 - 2.0))
        };
        let sets = [set(20_000.0), set(1_000_000.0)];
        let guest = Self {
            sets,
            calm_from: (random.unit() < 0.2).then(|| Duration::from_secs_f64(random.unit() * 60.0)),
            demand: 1.0,
            link: 10f64.powf(7.5 + random.unit() * 1.5),
            noise: random.unit() * 0.1,
            page_s: 2e-6 * 10f64.powf(random.unit() * 0.7),
            fixed: (
                Duration::from_secs_f64(0.002 + random.unit() * 0.015),
                random.unit() * 0.4,
            ),
        };
        // A third of them sleep part of the time.
        let demand = 0.05 + 0.9 * random.unit();
        Self {
            demand: if random.unit() < 0.33 { demand } else { 1.0 },
            ..guest
        }
    }

    /// The guest, with a seed for all that wavers.
    pub(in crate::converge) fn model(self, seed: u64) -> Fluid {
        let mut random = Random(seed);
        let measured: Vec<_> = (0..5).map(|_| self.fixed_once(&mut random)).collect();
        Fluid {
            workload: self,
            costs: FixedCosts::lump(Interval::of_samples(&measured).unwrap_or_default()),
            random,
        }
    }

    /// What a downtime costs beside its pages, drawn log-normally.
    fn fixed_once(&self, random: &mut Random) -> Duration {
        let (median, sigma) = self.fixed;
        // A normal variable, by the sum of twelve uniform ones.
        let normal = (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
        median.mul_f64((sigma * normal).exp())
    }

    /// Runs `policy` over the guest.
    pub(in crate::converge) fn run(self, policy: &mut dyn Policy, seed: u64) -> Run {
        replay(&mut self.model(seed), policy)
    }
}

/// A workload that wavers.
#[derive(Clone, Debug)]
pub(in crate::converge) struct Fluid {
    workload: Workload,
    costs: FixedCosts,
    random: Random,
}

impl Model for Fluid {
    /// The written sets are all that the guest has.
    fn first_pages(&self) -> f64 {
        self.workload.sets.iter().map(|(pages, _)| pages).sum()
    }

    fn distinct(&mut self, now: Duration, time: Duration, throttled: ThrottleShare) -> f64 {
        let calm = self.workload.calm_from.is_some_and(|from| now > from);
        let lost = self.lost(now, throttled);
        let time = lost.guest_time(time).as_secs_f64() * if calm { 0.01 } else { 1.0 };
        let pages = |(pages, rate): (f64, f64)| pages * (1.0 - (-rate * time / pages).exp());
        let wobble = 1.0 + 0.05 * (self.random.unit() * 2.0 - 1.0);
        self.workload.sets.into_iter().map(pages).sum::<f64>() * wobble
    }

    /// The demand, as a look at processor times finds it.
    fn response(&mut self, _now: Duration) -> ThrottleResponse {
        let wobble = 1.0 + 0.1 * (self.random.unit() * 2.0 - 1.0);
        match self.workload.demand {
            1.0 => ThrottleResponse::default(),
            demand => ThrottleResponse::of_demand(demand * wobble),
        }
    }

    fn lost(&mut self, _now: Duration, throttled: ThrottleShare) -> LostWork {
        ThrottleResponse::of_demand(self.workload.demand).lost(throttled)
    }

    fn link(&mut self, _now: Duration) -> f64 {
        self.workload.link * (1.0 + self.workload.noise * (self.random.unit() * 2.0 - 1.0))
    }

    fn page_seconds(&mut self, round: u32) -> f64 {
        let scattered = if round == 1 { 0.3 } else { 1.0 };
        self.workload.page_s * scattered * (0.85 + 0.3 * self.random.unit())
    }

    fn costs(&self) -> FixedCosts {
        self.costs
    }

    fn fixed(&mut self) -> Duration {
        self.workload.fixed_once(&mut self.random)
    }
}

/// SplitMix64.
#[derive(Clone, Debug)]
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
