//! Whole migrations in virtual time: the engine's own coordinators and workers, a guest that
//! writes, a network that fails, and a checker that knows what really happened.
//!
//! Beside the two sides there are agents, which keep journals (`agents`), persons at the monitors, who
//! also settle (`person`, which says what a monitor does in the model), strangers at the door
//! (`strangers`), and somebody on the path, or a side that lies (`forger`). Programs hang and are killed
//! between any two steps (`crew/struck`).
//!
//! Everything follows from a seed. A run that breaks a rule is named with the command that
//! repeats it alone, with a log of what happened:
//!
//! ```text
//! PAGELIFT_SIM_SEED=17 cargo test -p pagelift-transports --test simulator replay -- --nocapture
//! ```
//!
//! `PAGELIFT_SIM_SEEDS=1000000` runs more seeds than usual, and `PAGELIFT_SIM_FIRST` says from which on;
//! a release build does some 400 a second on two cores. Each seed that breaks a rule is named at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use pagelift_engine::migration::DowntimeLimit;
use pagelift_engine::wire::FrameType;
use simulator::checker::{self, Outcome};
use simulator::memory::Side;
use simulator::plan::{Fault, Moment, Plan, PlannedFault, PolicyPlan, Sabotage};
use simulator::reached::{Counts, WANTED};

#[expect(unreachable_pub, reason = "nobody can reach the inside of a test")]
mod simulator {
    pub mod agents;
    pub mod base_pages;
    pub mod checker;
    pub mod crew;
    pub mod draw;
    pub mod faults;
    pub mod forger;
    pub mod guest;
    pub mod knobs;
    pub mod memory;
    pub mod others;
    pub mod person;
    pub mod phases;
    pub mod plan;
    pub mod policies;
    pub mod reached;
    pub mod stepping;
    pub mod strangers;
    pub mod tap;
    pub mod target;
    pub mod target_half;
    pub mod tracker;
    pub mod truth;
    pub mod watcher;
    pub mod world;
    pub mod writer;
}

/// Seeds of an ordinary test run.
const SEEDS: u64 = 3000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

/// Runs a plan; a panic is a rule broken.
fn run(plan: &Plan, keep_events: bool) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| checker::run(plan, keep_events))).unwrap_or_else(|_| {
        simulator::crew::Crew::sign_off();
        Outcome {
            broken: vec!["it panicked; the message is above".into()],
            ..Outcome::default()
        }
    })
}

#[test]
fn every_rule_holds_over_many_seeds() {
    let seeds = number("PAGELIFT_SIM_SEEDS").unwrap_or(SEEDS);
    let start = number("PAGELIFT_SIM_FIRST").unwrap_or(0);
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let began = std::time::Instant::now();
    // Each seed is a world of its own; only their sum is shared.
    let sum: Mutex<(Counts, Vec<String>)> = Mutex::default();
    thread::scope(|scope| {
        for first in 0..threads {
            let sum = &sum;
            scope.spawn(move || {
                for seed in (start + first..start + seeds).step_by(threads as usize) {
                    let outcome = run(&Plan::new(seed), false);
                    let mut sum = sum.lock().expect("runs catch their panics");
                    for (name, count) in outcome.counts {
                        *sum.0.entry(name).or_default() += count;
                    }
                    if !outcome.broken.is_empty() {
                        let words = complaint(seed, &outcome.broken);
                        eprintln!("{words}");
                        sum.1.push(words);
                    }
                }
            });
        }
    });
    let (counts, broken) = sum.into_inner().expect("runs catch their panics");
    println!("{seeds} seeds in {:.1} s", began.elapsed().as_secs_f64());
    for (name, count) in &counts {
        println!("{count:8}  {name}");
    }
    let shown = broken
        .iter()
        .take(10)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        broken.is_empty(),
        "{} seeds break rules:\n{shown}",
        broken.len()
    );
    if seeds >= SEEDS {
        let missing: Vec<_> = WANTED
            .iter()
            .filter(|name| !counts.contains_key(*name))
            .collect();
        assert!(missing.is_empty(), "never reached: {missing:?}");
    }
}

fn complaint(seed: u64, broken: &[String]) -> String {
    format!(
        "seed {seed}: {}\n  PAGELIFT_SIM_SEED={seed} cargo test -p pagelift-transports \
         --test simulator replay -- --nocapture",
        broken.join("; ")
    )
}

/// One seed, with a log of what happened.
#[test]
fn replay() {
    let Some(seed) = number("PAGELIFT_SIM_SEED") else {
        return;
    };
    let plan = Plan::new(seed);
    println!("{plan:#?}");
    let outcome = run(&plan, true);
    for event in &outcome.events {
        println!("{event}");
    }
    println!("{:#?}", outcome.counts);
    assert!(
        outcome.broken.is_empty(),
        "{}",
        complaint(seed, &outcome.broken)
    );
}

#[test]
fn a_seed_names_one_run() {
    for seed in 0..20 {
        let (one, two) = (run(&Plan::new(seed), true), run(&Plan::new(seed), true));
        assert_eq!(one.events, two.events, "seed {seed}");
    }
}

/// A small guest over a healthy network.
fn calm(seed: u64) -> Plan {
    Plan {
        pages: 60,
        filled: 0.7,
        writes_per_s: 200.0,
        channels: 2,
        verify: false,
        state_bytes: 1000,
        second_attempt: false,
        agents: false,
        authenticated: true,
        strangers: Vec::new(),
        ..Plan::new(seed).healthy()
    }
}

fn complaints(plan: &Plan) -> String {
    checker::run(plan, false).broken.join("; ")
}

#[test]
fn a_calm_run_breaks_no_rule() {
    for seed in 0..20 {
        let outcome = checker::run(&calm(seed), false);
        assert_eq!(outcome.broken, Vec::<String>::new(), "seed {seed}");
        assert_eq!(outcome.counts.get("completed"), Some(&1), "seed {seed}");
    }
}

/// Without digests, nothing but the checker notices a mark that was lost.
#[test]
fn the_checker_objects_to_a_lost_mark() {
    let found = (0..20).any(|seed| {
        let lossy = Plan {
            verify: false,
            lose_marks: Some(1),
            writes_per_s: 2000.0,
            policy: PolicyPlan::Whim {
                stop_at: 4,
                give_up: false,
            },
            ..calm(seed)
        };
        complaints(&lossy).contains("differ at the switchover")
    });
    assert!(found);
}

#[test]
fn the_checker_objects_to_a_byte_damaged_behind_the_checksum() {
    let damaged = Plan {
        verify: false,
        writes_per_s: 0.0,
        damage_placed: Some(10),
        ..calm(1)
    };
    let complaints = complaints(&damaged);
    assert!(
        complaints.contains("1 pages differ at the switchover"),
        "{complaints}"
    );
    let noticed = Plan {
        verify: true,
        ..damaged
    };
    let outcome = checker::run(&noticed, false);
    assert_eq!(outcome.broken, Vec::<String>::new());
    assert_eq!(outcome.counts.get("source: digest-mismatch"), Some(&1));
}

#[test]
fn the_checker_objects_to_a_target_that_runs_without_a_grant() {
    let sabotaged = Plan {
        sabotage: Some(Sabotage::RunWithoutGrant),
        ..calm(2)
    };
    let complaints = complaints(&sabotaged);
    assert!(
        complaints.contains("the source has not given up"),
        "{complaints}"
    );
}

#[test]
fn the_checker_objects_to_a_source_that_keeps_running() {
    let sabotaged = Plan {
        sabotage: Some(Sabotage::KeepRunning),
        ..calm(3)
    };
    let complaints = complaints(&sabotaged);
    assert!(complaints.contains("runs on both sides"), "{complaints}");
}

/// A network that is gone for good between the hand-over and its answer: nobody can know.
#[test]
fn an_answer_that_never_comes_ends_in_doubt() {
    let cut = |moment| Plan {
        faults: vec![PlannedFault {
            moment,
            fault: Fault::HoldAll(Duration::from_secs(1_000_000)),
            refuse: Duration::ZERO,
        }],
        ..calm(4)
    };
    let lost = cut(Moment::Frame(
        Side::Source,
        FrameType::HandOver,
        Duration::ZERO,
    ));
    let outcome = checker::run(&lost, false);
    assert_eq!(outcome.broken, Vec::<String>::new());
    assert_eq!(
        outcome.counts.get("guest unknown, and with nobody"),
        Some(&1)
    );

    let unheard = cut(Moment::Frame(
        Side::Target,
        FrameType::Running,
        Duration::ZERO,
    ));
    let outcome = checker::run(&unheard, false);
    assert_eq!(outcome.broken, Vec::<String>::new());
    assert_eq!(
        outcome.counts.get("guest unknown, and on the target"),
        Some(&1)
    );
}

/// The same, but the network comes back while the source still asks.
#[test]
fn an_answer_that_was_lost_is_asked_for_again() {
    for (side, kind) in [
        (Side::Target, FrameType::Ready),
        (Side::Source, FrameType::HandOver),
        (Side::Target, FrameType::Running),
    ] {
        let plan = Plan {
            faults: vec![PlannedFault {
                moment: Moment::Frame(side, kind, Duration::from_micros(1)),
                fault: Fault::ResetAll,
                refuse: Duration::from_secs(3),
            }],
            ..calm(5)
        };
        let outcome = checker::run(&plan, false);
        assert_eq!(outcome.broken, Vec::<String>::new(), "{kind:?}");
        let settled = outcome.counts.contains_key("completed after a reattach");
        assert_eq!(settled, kind != FrameType::Ready, "{kind:?}");
    }
}

/// The same guest under a limit that its loading exceeds.
#[test]
fn a_guest_that_loads_for_longer_than_it_may_stand_stays() {
    let slow = Plan {
        state_bytes: 5 << 20,
        state_pieces: 4,
        piece_takes: Duration::from_secs(6),
        downtime_limit: DowntimeLimit::Fixed(Duration::from_secs(2)),
        ..calm(6)
    };
    let outcome = checker::run(&slow, false);
    assert_eq!(outcome.broken, Vec::<String>::new());
    assert_eq!(outcome.counts.get("source: downtime-limit"), Some(&1));
    assert_eq!(outcome.counts.get("source: guest on source"), Some(&1));
}

/// While the queue of device state is full, the target does not listen: that is not silence.
#[test]
fn a_guest_that_loads_slowly_is_no_silent_peer() {
    let slow = Plan {
        state_bytes: 5 << 20,
        state_pieces: 4,
        piece_takes: Duration::from_secs(6),
        downtime_limit: DowntimeLimit::Fixed(Duration::from_secs(600)),
        ..calm(6)
    };
    let outcome = checker::run(&slow, false);
    assert_eq!(outcome.broken, Vec::<String>::new());
    assert_eq!(outcome.counts.get("completed"), Some(&1));
}

/// A source that ends the migration says so and closes. What the target meanwhile cannot write
/// any more must not keep it from reading that.
#[test]
fn the_last_words_of_a_source_are_heard() {
    for seed in 0..40 {
        let mut plan = calm(seed);
        plan.network.latency = Duration::from_micros(200);
        plan.state_bytes = 5 << 20;
        plan.state_pieces = 4;
        plan.piece_takes = Duration::from_millis(100);
        plan.faults = vec![PlannedFault {
            moment: Moment::Frame(Side::Target, FrameType::Ready, Duration::ZERO),
            fault: Fault::Cancel(Side::Source),
            refuse: Duration::ZERO,
        }];
        let outcome = checker::run(&plan, false);
        assert_eq!(outcome.broken, Vec::<String>::new(), "seed {seed}");
        let stayed = outcome.counts.contains_key("target: guest on source");
        assert!(stayed, "seed {seed}: {:?}", outcome.counts);
    }
}
