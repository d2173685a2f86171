//! Whole moves of invented guests, with one share for all vCPUs and with one for each.

use super::*;
use crate::converge::{
    Classic, ClassicConfig, Decision, FixedCosts, Interval, Observation, Policy, Predictive,
    PredictiveConfig,
};
use crate::units::{ByteCount, PAGE_BYTES, Rate};

/// A migration over a link.
struct Migrated {
    completed: bool,
    lost_work_s: f64,
    took_s: f64,
    downtime_s: f64,
}

const DOWNTIME: Duration = Duration::from_millis(50);
const LINK_BYTES_PER_S: f64 = 100e6;

fn migrate(mut guest: Guest, policy: &mut dyn Policy) -> Migrated {
    let mut throttle = VcpuThrottle::default();
    let link_pages = LINK_BYTES_PER_S / PAGE_BYTES as f64;
    let mut left: f64 = guest.vcpus.iter().map(|vcpu| vcpu.pages).sum();
    let (mut round, mut sent) = (0, 0.0);
    throttle.sample(guest.sample(true));
    loop {
        round += 1;
        let (begun, mut to_send, in_force) = (guest.now_s, left, throttle.wanted());
        while to_send > 0.0 {
            let most = throttle.sample_after().unwrap_or(SAMPLE_INTERVAL);
            let time = (to_send / link_pages).min(most.as_secs_f64()).max(1e-3);
            guest.run(time, &throttle);
            to_send -= time * link_pages;
            if to_send > 0.0 && throttle.sample_after().is_some() {
                throttle.sample(guest.sample(false));
            }
        }
        sent += left * PAGE_BYTES as f64;
        let pages = guest.harvest();
        throttle.sample(guest.sample(true));
        left = pages.0 as f64;
        let interval = Duration::from_secs_f64(guest.now_s - begun);
        let seen = Observation {
            now: guest.now(),
            elapsed: Duration::from_secs_f64(guest.now_s),
            round,
            round_ended: true,
            left: pages,
            held: PageCount(0),
            held_written: PageCount(0),
            in_flight: ByteCount(0),
            bytes_per_page: PAGE_BYTES as f64,
            round_page_bytes: PAGE_BYTES as f64,
            page_time: None,
            link: Some(Rate(LINK_BYTES_PER_S as u64)),
            dirty: Rate::over(pages.bytes(), interval),
            fixed: FixedCosts::lump(Interval::exactly(Duration::from_millis(10))),
            harvested: pages,
            between_harvests: interval,
            throttled: throttle.effect().unwrap_or(in_force),
            response: throttle.response(),
            placed: ByteCount(sent as u64),
        };
        let ended = |completed, downtime_s| Migrated {
            completed,
            lost_work_s: guest.lost_work_s,
            took_s: guest.now_s,
            downtime_s,
        };
        match policy.decide(&seen) {
            Decision::Continue => {}
            Decision::Throttle(share) => throttle.want(share, policy.throttle_most()),
            Decision::Stop | Decision::Force => {
                return ended(true, 0.01 + left / link_pages);
            }
            Decision::GiveUp(_) => return ended(false, 0.0),
        }
    }
}

/// 2 to 8 vCPUs: some write, some compute, some do next to nothing.
fn any_guest(seed: u64) -> Guest {
    let mut dice = Guest::new(&[], seed);
    let vcpus = 2 + (dice.unit() * 7.0) as usize;
    let kinds: Vec<Writer> = (0..vcpus)
        .map(|vcpu| {
            let kind = dice.unit();
            if vcpu == 0 || kind < 0.3 {
                Writer {
                    pages: 10f64.powf(4.0 + 1.5 * dice.unit()),
                    rate: 10f64.powf(4.0 + dice.unit()),
                    demand: 0.3 + 0.7 * dice.unit(),
                }
            } else if kind < 0.7 {
                COMPUTER
            } else {
                IDLER
            }
        })
        .collect();
    Guest::new(&kinds, seed)
}

/// One of four vCPUs writes, the others compute.
fn one_writes(seed: u64) -> Guest {
    let mut dice = Guest::new(&[], seed);
    let mut vcpus = [COMPUTER; 4];
    vcpus[(dice.unit() * 4.0) as usize] = Writer {
        pages: 10f64.powf(5.0 + dice.unit()),
        rate: 30_000.0 + 50_000.0 * dice.unit(),
        demand: 1.0,
    };
    Guest::new(&vcpus, seed)
}

fn all_write(seed: u64) -> Guest {
    let mut dice = Guest::new(&[], seed);
    let vcpus = 2 + (dice.unit() * 7.0) as usize;
    Guest::new(&vec![writer(5_000.0 + 20_000.0 * dice.unit()); vcpus], seed)
}

/// The moves of a population of guests.
#[derive(Debug, Default)]
struct Sums {
    completed: u32,
    kept: u32,
    lost_work_s: f64,
    time_s: f64,
}

impl Sums {
    fn add(&mut self, ran: &Migrated) {
        self.completed += u32::from(ran.completed);
        self.kept += u32::from(ran.completed && ran.downtime_s <= 0.0501);
        self.lost_work_s += ran.lost_work_s;
        self.time_s += ran.took_s;
    }
}

/// Guests of each population.
const GUESTS: u64 = 300;

/// By one share for all, and by counts.
fn compare(guest: fn(u64) -> Guest, policy: &dyn Fn() -> Box<dyn Policy>) -> [Sums; 2] {
    [false, true].map(|is_counted| {
        let mut sums = Sums::default();
        for seed in 0..GUESTS {
            let guest = Guest {
                is_counted,
                ..guest(seed)
            };
            sums.add(&migrate(guest, &mut *policy()));
        }
        sums
    })
}

#[test]
fn whole_migrations_lose_less_work_and_complete_as_often() {
    let timeout = Duration::from_secs(180);
    let predictive = || -> Box<dyn Policy> {
        Box::new(Predictive::new(PredictiveConfig {
            downtime: DOWNTIME,
            timeout,
            ..PredictiveConfig::default()
        }))
    };
    let classic = || -> Box<dyn Policy> {
        Box::new(Classic::new(ClassicConfig {
            downtime: DOWNTIME,
            timeout,
            ..ClassicConfig::default()
        }))
    };
    // The most lost work that may be left by counts.
    let populations = [
        ("any", any_guest as fn(u64) -> Guest, 0.85),
        ("one writes", one_writes, 0.6),
        ("all write", all_write, 1.01),
    ];
    for (name, guest, most) in populations {
        for (policy_name, policy) in [
            ("predictive", &predictive as &dyn Fn() -> Box<dyn Policy>),
            ("classic", &classic),
        ] {
            let [alike, counted] = compare(guest, policy);
            eprintln!("{name}, {policy_name}: {alike:.0?} {counted:.0?}");
            assert!(counted.completed + 9 >= alike.completed, "{counted:?}");
            assert!(
                counted.lost_work_s < most * alike.lost_work_s,
                "{counted:?} {alike:?}"
            );
            assert!(
                counted.time_s < 1.15 * alike.time_s,
                "{counted:?} {alike:?}"
            );
            let kept = f64::from(counted.kept) / f64::from(counted.completed);
            assert!(kept >= 0.99 || policy_name == "classic", "{counted:?}");
        }
    }
}
