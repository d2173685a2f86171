//! Invented guests with several vCPUs, whose writes are counted by vCPU or not at all.

mod moves;

use super::*;
use crate::units::PageCount;

/// A vCPU that writes uniformly to pages of its own.
#[derive(Clone, Copy, Debug)]
struct Writer {
    pages: f64,
    /// Writes per second of its processor time.
    rate: f64,
    /// The part of a processor that it wants.
    demand: f64,
}

const COMPUTER: Writer = Writer {
    pages: 50.0,
    rate: 2000.0,
    demand: 1.0,
};

const IDLER: Writer = Writer {
    pages: 100.0,
    rate: 1000.0,
    demand: 0.01,
};

fn writer(rate: f64) -> Writer {
    Writer {
        pages: 200_000.0,
        rate,
        demand: 1.0,
    }
}

/// The guest as the engine sees it.
#[derive(Clone, Debug)]
struct Guest {
    vcpus: Vec<Writer>,
    marked: Vec<f64>,
    ran: Vec<f64>,
    written: Vec<f64>,
    is_counted: bool,
    now_s: f64,
    /// Processors' seconds that were wanted and not given.
    lost_work_s: f64,
    random: u64,
}

impl Guest {
    fn new(vcpus: &[Writer], seed: u64) -> Self {
        Self {
            vcpus: vcpus.to_vec(),
            marked: vec![0.0; vcpus.len()],
            ran: vec![0.0; vcpus.len()],
            written: vec![0.0; vcpus.len()],
            is_counted: true,
            now_s: 0.0,
            lost_work_s: 0.0,
            random: seed,
        }
    }

    /// A number from 0 to 1, by SplitMix64.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn run(&mut self, time_s: f64, throttle: &VcpuThrottle) {
        for vcpu in 0..self.vcpus.len() {
            let Writer {
                pages,
                rate,
                demand,
            } = self.vcpus[vcpu];
            let share = share(throttle, vcpu);
            let wobble = 1.0 + 0.1 * (self.unit() - 0.5);
            let ran = demand.min((1.0 - share) * wobble) * time_s;
            self.lost_work_s += (demand * time_s - ran).max(0.0);
            self.ran[vcpu] += ran;
            let wobble = 1.0 + 0.2 * (self.unit() - 0.5);
            let clean = pages - self.marked[vcpu];
            let new = clean * (1.0 - (-rate * ran * wobble / pages).exp());
            self.marked[vcpu] += new;
            self.written[vcpu] += new;
        }
        self.now_s += time_s;
    }

    fn now(&self) -> Instant {
        Instant((self.now_s * 1e9) as u64)
    }

    /// Pages written since the last harvest.
    fn harvest(&mut self) -> PageCount {
        let pages = self.marked.iter().sum::<f64>();
        self.marked.fill(0.0);
        PageCount(pages as u64)
    }

    fn sample(&self, round_ended: bool) -> VcpuSample {
        let counts = || self.written.iter().map(|pages| *pages as u64).collect();
        VcpuSample {
            now: self.now(),
            ran: (self.ran.iter())
                .map(|s| Duration::from_secs_f64(*s))
                .collect(),
            written_by: self.is_counted.then(counts),
            round_ended,
        }
    }

    /// Runs under `throttle` for `samples` samples, with a harvest at every 20th. Gives the mean
    /// shares of the last ten.
    fn throttled(&mut self, throttle: &mut VcpuThrottle, samples: u32) -> Vec<f64> {
        let mut mean = vec![0.0; self.vcpus.len()];
        for sample in 0..samples {
            let time = throttle.sample_after().unwrap_or(SAMPLE_INTERVAL);
            self.run(time.as_secs_f64(), throttle);
            let harvests = sample % 20 == 19;
            if harvests {
                self.harvest();
            }
            throttle.sample(self.sample(harvests));
            if sample + 10 >= samples {
                for (vcpu, mean) in mean.iter_mut().enumerate() {
                    *mean += share(throttle, vcpu) / 10.0;
                }
            }
        }
        mean
    }

    /// A throttle that has seen this guest at full speed, and is now asked for `share`.
    fn asked(&mut self, share: ThrottleShare, most: ThrottleShare) -> VcpuThrottle {
        let mut throttle = VcpuThrottle::default();
        for round in 0..4 {
            self.harvest();
            throttle.sample(self.sample(true));
            if round < 3 {
                self.run(1.0, &throttle);
            }
        }
        throttle.want(share, most);
        throttle
    }
}

/// The share of one vCPU, as a fraction.
fn share(throttle: &VcpuThrottle, vcpu: usize) -> f64 {
    let share = match throttle.shares() {
        Some(shares) => shares[vcpu],
        None => throttle.wanted(),
    };
    share.as_fraction()
}

fn strong() -> ThrottleShare {
    ThrottleShare::permille(950)
}

#[test]
fn the_writer_is_throttled_and_the_others_run() {
    for seed in 0..20 {
        let mut guest = Guest::new(&[COMPUTER, writer(50_000.0), IDLER], seed);
        let mut throttle = guest.asked(strong(), strong());
        let first = throttle.shares().expect("known at once");
        assert_eq!(first, [ThrottleShare::NONE, strong(), ThrottleShare::NONE]);
        let shares = guest.throttled(&mut throttle, 30);
        assert!(shares[1] > 0.94, "seed {seed}: {shares:?} {throttle:?}");
        assert!(shares[0] < 0.01, "seed {seed}: {shares:?} {throttle:?}");
        assert!(shares[2] < 0.01, "seed {seed}: {shares:?}");
    }
}

#[test]
fn vcpus_that_are_alike_are_throttled_alike() {
    for seed in 0..20 {
        let mut guest = Guest::new(&[writer(30_000.0); 4], seed);
        let mut throttle = guest.asked(strong(), strong());
        let shares = guest.throttled(&mut throttle, 30);
        assert!(
            shares.iter().all(|share| *share > 0.85),
            "seed {seed}: {shares:?}"
        );
    }
}

#[test]
fn one_of_many_is_found() {
    for seed in 0..10 {
        let mut vcpus = [COMPUTER; 200];
        vcpus[5] = writer(800_000.0);
        let mut guest = Guest::new(&vcpus, seed);
        let mut throttle = guest.asked(ThrottleShare::permille(800), strong());
        let shares = guest.throttled(&mut throttle, 30);
        let others = (shares.iter().sum::<f64>() - shares[5]) / 199.0;
        assert!(shares[5] > 0.75, "seed {seed}: {shares:?}");
        assert!(others < 0.1, "seed {seed}: {others}");
    }
}

#[test]
fn a_writer_that_moves_is_followed() {
    for seed in 0..20 {
        let mut guest = Guest::new(&[COMPUTER, writer(50_000.0)], seed);
        let mut throttle = guest.asked(strong(), strong());
        guest.throttled(&mut throttle, 30);
        guest.vcpus.swap(0, 1);
        let before = guest.written[0];
        let shares = guest.throttled(&mut throttle, 60);
        assert!(shares[0] > 0.9, "seed {seed}: {shares:?}");
        // It got away for a second at most, of six.
        let wrote = (guest.written[0] - before) / 50_000.0;
        assert!(wrote < 1.0, "seed {seed}: {wrote} s of full speed");
    }
}

#[test]
fn a_writer_that_never_stays_is_throttled_wherever_it_is() {
    for seed in 0..20 {
        let mut guest = Guest::new(&[COMPUTER, writer(50_000.0)], seed);
        let mut throttle = guest.asked(strong(), strong());
        let before = guest.written.iter().sum::<f64>();
        for _ in 0..25 {
            guest.throttled(&mut throttle, 4);
            guest.vcpus.swap(0, 1);
        }
        let wrote = (guest.written.iter().sum::<f64>() - before) / 10.0;
        assert!(wrote < 0.5 * 50_000.0, "seed {seed}: {wrote} pages per s");
    }
}

#[test]
fn shares_differ_only_where_that_is_of_use() {
    let mut guest = Guest::new(&[COMPUTER, writer(50_000.0)], 1);
    let mut throttle = guest.asked(strong(), strong());
    guest.throttled(&mut throttle, 30);
    assert!(throttle.shares().is_some() && throttle.sample_after().is_some());
    throttle.want(ThrottleShare::NONE, strong());
    assert_eq!((throttle.shares(), throttle.sample_after()), (None, None));
    // The counts are still there.
    throttle.want(strong(), strong());
    let shares = throttle.shares();
    assert!(shares.is_some_and(|shares| shares[1] == strong()));

    let mut single = Guest::new(&[writer(50_000.0)], 1);
    let mut uncounted = Guest::new(&[COMPUTER, writer(50_000.0)], 1);
    uncounted.is_counted = false;
    for guest in [&mut single, &mut uncounted] {
        let mut throttle = guest.asked(strong(), ThrottleShare::MOST);
        assert_eq!((throttle.shares(), throttle.sample_after()), (None, None));
        guest.throttled(&mut throttle, 30);
        assert_eq!((throttle.shares(), throttle.effect()), (None, None));
    }
}

#[test]
fn the_policy_is_told_the_effect_of_shares_that_differ() {
    let mut guest = Guest::new(&[COMPUTER, writer(50_000.0)], 1);
    let mut throttle = guest.asked(strong(), strong());
    assert_eq!(throttle.effect(), None, "of a round without a throttle");
    guest.throttled(&mut throttle, 40);
    let effect = throttle.effect().expect("shares differed").as_fraction();
    assert!((0.93..0.97).contains(&effect), "{effect}");
}
