//! Whole runs under limits, over invented guests and recorded ones.

use std::time::Duration;

use super::Limited;
use crate::converge::forecast::downtime::tests::seen;
use crate::converge::trace::fluid::Workload;
use crate::converge::{
    AtDeadline, Decision, Downtime, Ended, Limits, Model, Policy, PolicyKind, Record, Recorded,
    ThrottleShare, Trace, replay,
};
use crate::units::PageCount;

const S: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    Limits::default()
}

#[test]
fn a_growing_downtime_lets_more_guests_complete() {
    for kind in PolicyKind::ALL {
        let fixed = Limits {
            policy: kind,
            throttle_most: Some(ThrottleShare::NONE),
            ..limits()
        };
        let growing = Limits {
            downtime: Downtime::growing(Duration::from_millis(50), 5 * S).unwrap(),
            ..fixed
        };
        let guest = Workload::uniform(60_000, 40_000.0);
        let stays = replay(&mut guest.model(1), &mut Limited::new(fixed));
        assert_eq!(stays.ended, Ended::GaveUp, "{kind:?}");
        let moves = replay(&mut guest.model(1), &mut Limited::new(growing));
        let Ended::Completed { downtime } = moves.ended else {
            panic!("{kind:?}: {moves:?}")
        };
        assert!((Duration::from_millis(50)..5 * S).contains(&downtime));
        assert!(moves.took < stays.took.max(30 * S), "{kind:?}: {moves:?}");
    }
}

/// Whatever the user does, and whatever the guest: with a deadline that cancels or forces, every
/// run ends soon after it, and a guest that was given up or let go of is not throttled.
#[test]
fn every_run_with_a_deadline_ends() {
    for seed in 0..600u64 {
        let kind = PolicyKind::ALL[seed as usize % 3];
        let limits = Limits {
            policy: kind,
            deadline: Some(60 * S),
            at_deadline: AtDeadline::ALL[seed as usize / 3 % 3],
            ..limits()
        };
        let workload = Workload::seeded(seed);
        let run = replay(&mut workload.model(seed), &mut Limited::new(limits));
        match limits.at_deadline {
            AtDeadline::Cancel => assert!(run.took <= 62 * S, "seed {seed}: {run:?}"),
            AtDeadline::Force => {
                let completed = matches!(run.ended, Ended::Completed { .. });
                assert!(completed && run.took <= 62 * S, "seed {seed}: {run:?}");
            }
            AtDeadline::StopTrying => {
                assert_ne!(run.ended, Ended::GaveUp, "seed {seed}");
                if run.ended == Ended::StillTrying {
                    let last = run.records.last().unwrap();
                    assert_eq!(last.seen.throttled, ThrottleShare::NONE, "seed {seed}");
                }
            }
        }
    }
}

/// A recorded run carries the changes of its limits, and a replay makes them at their time.
#[test]
fn a_trace_carries_what_the_user_changed() {
    let (first, then) = (
        Limits {
            policy: PolicyKind::None,
            at_deadline: AtDeadline::StopTrying,
            ..limits()
        },
        Limits {
            downtime: Downtime::fixed(6 * S),
            ..limits()
        },
    );
    let mut policy = Limited::new(first);
    let mut records = Vec::new();
    for round in 1..=20u64 {
        let limits = match round {
            1 => Some(first),
            15 => Some(then),
            _ => None,
        };
        if let Some(limits) = &limits {
            policy.set_limits(limits);
        }
        let seen = seen(round * 4000, u32::try_from(round).unwrap(), 100_000);
        let decision = policy.decide(&seen);
        let ends = decision == Decision::Stop;
        records.push(Record {
            seen,
            decision,
            limits,
        });
        if ends {
            break;
        }
    }
    let trace = Trace {
        first_pages: PageCount(100_000),
        records,
    };
    let read = Trace::parse(&trace.to_string()).unwrap();
    assert_eq!(read.to_string(), trace.to_string());
    let mut recorded = Recorded::new(read).unwrap();
    assert_eq!(recorded.first_limits(), Some(first));
    assert_eq!(recorded.new_limits(56 * S), Some(first));
    assert_eq!(recorded.new_limits(59 * S), None);
    assert_eq!(recorded.new_limits(60 * S), Some(then));

    let mut recorded = Recorded::new(trace).unwrap();
    let run = replay(&mut recorded, &mut Limited::new(first));
    assert!(matches!(run.ended, Ended::Completed { .. }), "{run:?}");
    assert!(run.took >= 60 * S, "{run:?}");
}
