//! Order by heat against plain order, over invented guests whose pages are followed one by one, in
//! virtual time: `cargo test -p pagelift-engine heat::order -- --nocapture` prints the table of
//! `docs/decisions/025-hot-pages-wait.md`.

use std::time::Duration;

use super::Heat;
use crate::converge::{
    Decision, FixedCosts, Interval, Observation, Policy, Predictive, PredictiveConfig,
    ThrottleResponse, ThrottleShare,
};
use crate::memory::PageBitmap;
use crate::units::{ByteCount, Instant, PAGE_BYTES, PageCount, PageRange, Rate};

/// Pages of the guest: 256 MiB.
const PAGES: u64 = 65_536;

/// 1 Gbit/s, less what headers take.
const LINK: Rate = Rate(117_000_000);

/// What a downtime costs beside its pages.
const FIXED: Duration = Duration::from_millis(8);

/// Time that a round takes at least.
const LEAST_ROUND: Duration = Duration::from_millis(10);

/// Longest migration.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Pages that are written at random times, each at a rate of its own.
struct Guest {
    /// Writes per second of each page.
    rates: Vec<f64>,
    random: u64,
}

impl Guest {
    /// Sets of pages, each with the writes per second that fall on all of its pages alike. The last
    /// one is what is left of the guest.
    fn of_sets(sets: &[(u64, f64)]) -> Self {
        let mut rates = Vec::new();
        for &(pages, writes) in sets {
            let pages = pages.min(PAGES - rates.len() as u64);
            rates.extend((0..pages).map(|_| writes / pages as f64));
        }
        Self { rates, random: 1 }
    }

    /// Page number `n` in the order of heat is written in proportion to `1 / n^exponent`.
    fn zipf(pages: u64, exponent: f64, writes: f64) -> Self {
        let weights: Vec<f64> = (1..=pages).map(|n| (n as f64).powf(-exponent)).collect();
        let sum: f64 = weights.iter().sum();
        let mut rates: Vec<f64> = weights.iter().map(|weight| writes * weight / sum).collect();
        rates.resize(PAGES as usize, 0.0);
        Self { rates, random: 1 }
    }

    /// What it writes while it runs for `time`.
    fn write(&mut self, time: Duration, dirty: &mut PageBitmap) {
        dirty.clear();
        for page in 0..PAGES {
            let rate = self.rates[page as usize];
            if self.unit() < 1.0 - (-rate * time.as_secs_f64()).exp() {
                dirty.insert(PageRange::new(page, 1));
            }
        }
    }

    /// SplitMix64, as a number from 0 to 1.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How a migration went.
#[derive(Debug)]
struct Went {
    completed: bool,
    took: Duration,
    downtime: Duration,
    sent: PageCount,
    /// Seconds of full speed that the guest lost before the downtime.
    lost_work_s: f64,
}

/// How pages are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Plain,
    /// The policy holds pages back.
    ByHeat,
    /// The same, with up to six harvests a round.
    HarvestedWithin,
}

impl Order {
    const ALL: [Self; 3] = [Self::Plain, Self::ByHeat, Self::HarvestedWithin];

    fn name(self) -> &'static str {
        ["plain", "by heat", "by heat, harvested within"][self as usize]
    }
}

/// The guest writes while the pages of `waiting` are sent, with `parts` harvests: what is found
/// written in all, and what of that must go again.
fn write_and_send(
    guest: &mut Guest,
    time: Duration,
    mut waiting: PageBitmap,
    parts: u32,
) -> [PageBitmap; 2] {
    let new = || PageBitmap::new(PageCount(PAGES));
    let (mut written, mut again, mut dirty) = (new(), new(), new());
    let share = waiting.count().0.div_ceil(parts.into());
    for _ in 0..parts {
        guest.write(time / parts, &mut dirty);
        let mut room = share;
        while let Some(run) = waiting.next_run(0, room).filter(|_| room > 0) {
            waiting.remove(run);
            room -= run.count.0;
        }
        written.union(&dirty);
        for run in dirty.runs() {
            let handed_out = run.indices().filter(|page| !waiting.contains(*page));
            handed_out.for_each(|page| again.insert(PageRange::new(page, 1)));
        }
    }
    [written, again]
}

/// Moves the guest.
fn migrate(guest: &mut Guest, policy: &mut dyn Policy, order: Order) -> Went {
    let new = || PageBitmap::new(PageCount(PAGES));
    let (mut pending, mut held) = (new(), new());
    let mut heat = Heat::new(PageCount(PAGES));
    pending.insert(PageRange::new(0, PAGES));
    let (mut now, mut throttle, mut sent, mut lost_work_s) =
        (Duration::ZERO, ThrottleShare::NONE, 0, 0.0);
    for round in 1.. {
        let pages = pending.count();
        let length = pages
            .bytes()
            .time_at(LINK)
            .unwrap_or_default()
            .max(LEAST_ROUND);
        now += length;
        sent += pages.0;
        lost_work_s += throttle.as_fraction() * length.as_secs_f64();
        let parts = match order {
            Order::HarvestedWithin => (length.as_millis() / 80).clamp(1, 6) as u32,
            _ => 1,
        };
        let time = throttle.guest_time(length);
        let [dirty, again] = write_and_send(guest, time, pending, parts);
        heat.harvested(&dirty);
        let held_pages = held.count();
        pending = again;
        pending.union(&held);
        let held_written = dirty.common(&held);
        held.clear();
        let left = pending.count();
        let seen = Observation {
            now: Instant(0).after(now),
            elapsed: now,
            round,
            round_ended: true,
            left,
            held: held_pages,
            held_written,
            in_flight: ByteCount(0),
            bytes_per_page: PAGE_BYTES as f64,
            round_page_bytes: PAGE_BYTES as f64,
            page_time: None,
            link: Some(LINK),
            dirty: Rate::over(dirty.count().bytes(), length),
            fixed: FixedCosts::lump(Interval::exactly(FIXED)),
            harvested: dirty.count(),
            between_harvests: length,
            throttled: throttle,
            response: ThrottleResponse::default(),
            placed: PageCount(sent).bytes(),
        };
        let went = |completed| Went {
            completed,
            took: now,
            downtime: FIXED + left.bytes().time_at(LINK).unwrap_or_default(),
            sent: PageCount(sent + left.0),
            lost_work_s,
        };
        match policy.decide(&seen) {
            Decision::Continue => {}
            Decision::Throttle(share) => throttle = share,
            Decision::Stop | Decision::Force => return went(true),
            Decision::GiveUp(_) => return went(false),
        }
        if order != Order::Plain {
            heat.hold_back(&mut pending, &mut held, policy.hold_back(&seen));
        }
    }
    unreachable!("policies give up when the time is over")
}

type NamedGuest = (&'static str, fn() -> Guest);

/// The guests of the table.
fn guests() -> [NamedGuest; 6] {
    [
        ("uniform, 51,200 pages/s, all of 32,768 pages", || {
            Guest::of_sets(&[(32_768, 51_200.0), (PAGES, 0.0)])
        }),
        ("uniform, 20,000 pages/s", || {
            Guest::of_sets(&[(PAGES, 20e3)])
        }),
        (
            "5,000 hot pages, 20 times/s each; 10,000 pages/s in the rest",
            || Guest::of_sets(&[(5000, 100e3), (PAGES, 10e3)]),
        ),
        (
            "5,000 hot pages, 3 times/s each; 20,000 pages/s in the rest",
            || Guest::of_sets(&[(5000, 15e3), (PAGES, 20e3)]),
        ),
        ("zipf 0.99 over 20,000 pages, 50,000 writes/s", || {
            Guest::zipf(20_000, 0.99, 50e3)
        }),
        ("zipf 1.2 over 65,536 pages, 200,000 writes/s", || {
            Guest::zipf(PAGES, 1.2, 200e3)
        }),
    ]
}

fn predictive(downtime: Duration, throttle_most: ThrottleShare) -> Predictive {
    Predictive::new(PredictiveConfig {
        downtime,
        timeout: TIMEOUT,
        throttle_most: Some(throttle_most),
        ..PredictiveConfig::default()
    })
}

#[test]
fn hot_pages_that_wait_never_make_it_worse_and_often_better() {
    println!(
        "| guest | limit | may throttle | order | result | time | downtime | sent | lost work |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let (mut completed, mut lost_work) = ([0; 3], [0.0; 3]);
    for (name, guest) in guests() {
        for limit_ms in [100, 200, 300] {
            for throttle_most in [ThrottleShare::NONE, ThrottleShare::permille(950)] {
                for order in Order::ALL {
                    let limit = Duration::from_millis(limit_ms);
                    let mut policy = predictive(limit, throttle_most);
                    let went = migrate(&mut guest(), &mut policy, order);
                    println!(
                        "| {name} | {limit_ms} ms | {} | {} | {} | {:.1} s | {:.0} ms | {:.2} x | \
                         {:.2} s |",
                        if throttle_most == ThrottleShare::NONE {
                            "no"
                        } else {
                            "yes"
                        },
                        order.name(),
                        if went.completed {
                            "completed"
                        } else {
                            "gave up"
                        },
                        went.took.as_secs_f64(),
                        went.downtime.as_secs_f64() * 1e3,
                        went.sent.0 as f64 / PAGES as f64,
                        went.lost_work_s
                    );
                    assert!(
                        !went.completed || went.downtime <= limit,
                        "{name}: {went:?}"
                    );
                    completed[order as usize] += u32::from(went.completed);
                    lost_work[order as usize] += went.lost_work_s;
                }
            }
        }
    }
    println!("completed {completed:?}, lost work {lost_work:.2?}");
    assert!(completed[0] < completed[1] && completed[1] <= completed[2]);
    assert!(lost_work[2] < lost_work[1] && lost_work[1] < lost_work[0]);
}
