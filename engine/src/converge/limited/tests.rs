//! Single decisions under limits.

use super::super::Downtime;
use super::super::forecast::downtime::tests::seen;
use super::*;
use crate::units::PageCount;

const S: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    Limits::default()
}

/// What the policy decides on the guest of [`seen`], which has 400 MB left and never fits.
fn stuck(policy: &mut Limited, at_ms: u64, round_ended: bool) -> Decision {
    let round = u32::try_from(at_ms / 1000).unwrap();
    policy.decide(&Observation {
        round_ended,
        throttled: policy.throttle,
        ..seen(at_ms, round, 100_000)
    })
}

/// Asks at every half second, from one time to another; what was not [`Decision::Continue`].
fn decisions(policy: &mut Limited, from_ms: u64, to_ms: u64) -> Vec<(u64, Decision)> {
    (from_ms..to_ms)
        .step_by(500)
        .map(|at| (at, stuck(policy, at, at % 1000 == 0)))
        .filter(|(_, decision)| *decision != Decision::Continue)
        .collect()
}

fn throttled(decisions: &[(u64, Decision)]) -> bool {
    decisions
        .iter()
        .any(|(_, decision)| matches!(decision, Decision::Throttle(share) if *share > ThrottleShare::NONE))
}

#[test]
fn at_the_deadline_it_gives_up_unless_it_fits_just_then() {
    let limits = Limits {
        deadline: Some(10 * S),
        policy: PolicyKind::Classic,
        ..limits()
    };
    let mut policy = Limited::new(limits);
    assert_eq!(stuck(&mut policy, 9_900, false), Decision::Continue);
    assert!(matches!(
        stuck(&mut policy.clone(), 10_000, false),
        Decision::GiveUp(GiveUp::TimedOut { .. })
    ));
    let fits = seen(10_500, 10, 100);
    assert_eq!(policy.decide(&fits), Decision::Stop);
}

#[test]
fn a_forced_guest_is_stopped_at_the_deadline_within_a_round() {
    let mut policy = Limited::new(Limits {
        deadline: Some(10 * S),
        at_deadline: AtDeadline::Force,
        ..limits()
    });
    let before = decisions(&mut policy, 500, 10_000);
    let ends =
        |(_, decision): &(u64, Decision)| matches!(decision, Decision::GiveUp(_) | Decision::Stop);
    assert!(!before.iter().any(ends), "{before:?}");
    assert_eq!(stuck(&mut policy, 10_050, false), Decision::Force);
}

#[test]
fn who_stops_trying_lets_go_of_the_guest_and_moves_it_once_it_fits() {
    let mut policy = Limited::new(Limits {
        deadline: Some(20 * S),
        at_deadline: AtDeadline::StopTrying,
        policy: PolicyKind::Classic,
        ..limits()
    });
    assert!(throttled(&decisions(&mut policy, 500, 20_000)));
    let after = decisions(&mut policy, 20_000, 4_000_000);
    assert_eq!(after, [(20_000, Decision::Throttle(ThrottleShare::NONE))]);
    let fits = seen(4_001_000, 4000, 500);
    assert_eq!(policy.decide(&fits), Decision::Stop);
}

#[test]
fn without_hope_the_guest_is_let_go_of_before_the_deadline() {
    // Hardly any throttle is allowed, and the guest writes too fast for it.
    let throttle_most = Some(ThrottleShare::permille(50));
    for at_deadline in [AtDeadline::StopTrying, AtDeadline::Force] {
        let mut policy = Limited::new(Limits {
            throttle_most,
            at_deadline,
            ..limits()
        });
        let tried = decisions(&mut policy, 500, 60_000);
        assert!(throttled(&tried), "{tried:?}");
        let (_, last) = tried.last().unwrap();
        assert_eq!(*last, Decision::Throttle(ThrottleShare::NONE), "{tried:?}");
        // A change of any limit is another try.
        policy.set_limits(&Limits {
            throttle_most: Some(ThrottleShare::permille(60)),
            ..*policy.limits()
        });
        assert!(throttled(&decisions(&mut policy, 60_000, 90_000)));
    }
}

#[test]
fn another_policy_takes_over_the_throttle_or_releases_it() {
    let mut policy = Limited::new(Limits {
        policy: PolicyKind::Classic,
        ..limits()
    });
    for round in 1..12 {
        let throttled = policy.throttle;
        let written = 20_000.0 * (1.0 - throttled.as_fraction());
        policy.decide(&Observation {
            throttled,
            harvested: PageCount(written as u64),
            ..seen(u64::from(round) * 1000, round, 20_000)
        });
    }
    let share = policy.throttle;
    assert!(share > ThrottleShare::permille(300), "{share}");
    let mut none = policy.clone();
    none.set_limits(&Limits {
        policy: PolicyKind::None,
        ..limits()
    });
    let then = stuck(&mut none, 12_050, false);
    assert_eq!(then, Decision::Throttle(ThrottleShare::NONE), "at once");

    policy.set_limits(&Limits {
        policy: PolicyKind::Predictive,
        ..limits()
    });
    let Chosen::Predictive(predictive) = &policy.chosen else {
        panic!("{policy:?}")
    };
    let seen = Observation {
        throttled: share,
        ..seen(12_500, 12, 20_000)
    };
    // It knows what the guest writes, and so what a throttle would do.
    assert!(
        predictive
            .rounds_forecast(&seen, ThrottleShare::permille(950))
            .ready_in
            .is_some()
    );
    let blank = Predictive::new(PredictiveConfig::default());
    assert!(
        blank
            .rounds_forecast(&seen, ThrottleShare::permille(950))
            .ready_in
            .is_none()
    );
}

#[test]
fn a_throttle_above_the_new_most_is_lowered() {
    for kind in [PolicyKind::Classic, PolicyKind::Predictive] {
        let mut policy = Limited::new(Limits {
            policy: kind,
            ..limits()
        });
        decisions(&mut policy, 500, 30_000);
        let throttle_most = ThrottleShare::permille(100);
        assert!(policy.throttle > throttle_most, "{policy:?}");
        policy.set_limits(&Limits {
            throttle_most: Some(throttle_most),
            ..*policy.limits()
        });
        let then = stuck(&mut policy, 30_050, false);
        assert_eq!(then, Decision::Throttle(throttle_most), "{kind:?}");
    }
}

/// A vCPU alone may be throttled by more than all together are: the guest must be told.
#[test]
fn another_most_throttle_is_told_although_the_throttle_stays() {
    let mut policy = Limited::new(Limits {
        policy: PolicyKind::Classic,
        ..limits()
    });
    decisions(&mut policy, 500, 5_000);
    let share = policy.throttle;
    let throttle_most = ThrottleShare::permille(900);
    assert!(
        share > ThrottleShare::NONE && share < throttle_most,
        "{share}"
    );
    policy.set_limits(&Limits {
        throttle_most: Some(throttle_most),
        ..*policy.limits()
    });
    assert_eq!(policy.throttle_most(), throttle_most);
    let then = stuck(&mut policy, 5_050, false);
    assert_eq!(then, Decision::Throttle(share));
    assert_eq!(stuck(&mut policy, 5_100, false), Decision::Continue);
}

#[test]
fn pages_are_held_back_as_the_policy_in_force_says_for_the_downtime_in_force() {
    let seen = seen(1000, 2, 100_000);
    let held = |policy: PolicyKind, downtime| {
        let downtime = Downtime::fixed(downtime);
        let mut steered = Limited::new(Limits {
            policy,
            downtime,
            ..limits()
        });
        steered.decide(&seen);
        steered.hold_back(&seen)
    };
    let (short, long) = (Duration::from_millis(50), S);
    assert_eq!(held(PolicyKind::None, long), PageCount(0));
    let few = held(PolicyKind::Predictive, short);
    assert!(few > PageCount(0));
    assert!(held(PolicyKind::Predictive, long) > few);
}

#[test]
fn a_longer_downtime_counts_from_the_next_round_on() {
    let mut policy = Limited::new(Limits {
        policy: PolicyKind::None,
        ..limits()
    });
    assert_eq!(stuck(&mut policy, 1000, true), Decision::Continue);
    policy.set_limits(&Limits {
        downtime: Downtime::fixed(6 * S),
        ..*policy.limits()
    });
    assert_eq!(policy.downtime_limit(), 6 * S);
    assert_eq!(stuck(&mut policy, 2000, true), Decision::Stop);
}
