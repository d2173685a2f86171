//! Migrations over real sockets that are cancelled, or changed, while threads sit in calls.
//!
//! How long after the request the guest was free is printed; only that it is free is asserted.

#![expect(unreachable_pub, reason = "nobody can reach the inside of a test")]

mod guest;
mod link;
mod migrate;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use migrate::{Seen, migrate};
use pagelift_engine::converge::{
    AtDeadline, Decision, Downtime, Limited, Limits, Observation, Policy, ThrottleShare,
};
use pagelift_engine::migration::{Failure, GuestLocation, MigrationError, Report};
use pagelift_engine::pipeline::Settings;
use pagelift_engine::units::Rate;

/// Far longer than anything takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Throttles at once, and never stops the guest.
#[derive(Debug, Default)]
struct Harsh(bool);

impl Policy for Harsh {
    fn decide(&mut self, _: &Observation) -> Decision {
        if std::mem::replace(&mut self.0, true) {
            return Decision::Continue;
        }
        Decision::Throttle(ThrottleShare::permille(900))
    }

    fn downtime_limit(&self) -> Duration {
        Duration::ZERO
    }
}

fn assert_free(result: &Result<Report, Failure>, seen: &Seen, when: &str) {
    let Err(failure) = result else {
        panic!("{when}: it moved")
    };
    assert!(
        matches!(failure.error, MigrationError::Cancelled),
        "{when}: {failure}"
    );
    assert_eq!(failure.guest, GuestLocation::Source, "{when}");
    assert_eq!(seen.share(), ThrottleShare::NONE, "{when}");
    assert!(!seen.armed.load(Ordering::Acquire), "{when}");
    let freed = seen.controls.cancel_token().freed_after();
    println!("measured: free {freed:?} after the request, {when}");
    assert!(freed.is_some_and(|time| time < PATIENCE), "{when}");
}

#[test]
fn a_guest_is_free_while_pages_flow() {
    let (result, seen) = migrate(Settings::default(), Box::<Harsh>::default(), |seen| {
        wait_until("throttled", || seen.share() > ThrottleShare::NONE);
        seen.controls.cancel();
    });
    assert_free(&result, &seen, "while pages flow");
}

#[test]
fn a_guest_is_free_although_only_a_flag_was_set() {
    let (result, seen) = migrate(Settings::default(), Box::<Harsh>::default(), |seen| {
        wait_until("throttled", || seen.share() > ThrottleShare::NONE);
        let flag = seen.controls.cancel_token().flag();
        flag.store(true, Ordering::Release);
    });
    assert_free(&result, &seen, "by a flag, once it was noticed");
}

#[test]
fn a_guest_is_free_although_the_coordinator_is_stuck() {
    let (result, seen) = migrate(Settings::default(), Box::<Harsh>::default(), |seen| {
        wait_until("throttled", || seen.share() > ThrottleShare::NONE);
        seen.jam.store(true, Ordering::Release);
        wait_until("stuck in a control message", || {
            seen.stuck.load(Ordering::Acquire) > 0
        });
        seen.controls.cancel();
    });
    assert_free(&result, &seen, "while the coordinator was stuck");
}

#[test]
fn a_guest_is_free_behind_a_cap_of_a_byte_a_second() {
    let settings = Settings {
        bandwidth: Some(Rate(1 << 20)),
        ..Settings::default()
    };
    let (result, seen) = migrate(settings, Box::<Harsh>::default(), |seen| {
        wait_until("armed", || seen.armed.load(Ordering::Acquire));
        seen.controls
            .change(|settings| settings.bandwidth = Some(Rate(1)));
        // Long enough for everybody to wait for a turn that would never come.
        thread::sleep(Duration::from_millis(300));
        seen.controls.cancel();
    });
    assert_free(&result, &seen, "while all waited at a cap");
}

/// A guest that could never move under the limits it began with.
#[test]
fn limits_that_change_let_it_move() {
    let limits = Limits {
        downtime: Downtime::fixed(Duration::from_micros(1)),
        deadline: None,
        ..Limits::default()
    };
    let settings = Settings {
        limits,
        bandwidth: Some(Rate(8 << 20)),
    };
    for (name, change) in [
        (
            "a longer downtime",
            Limits {
                downtime: Downtime::fixed(PATIENCE),
                ..limits
            },
        ),
        (
            "force",
            Limits {
                deadline: Some(Duration::ZERO),
                at_deadline: AtDeadline::Force,
                ..limits
            },
        ),
    ] {
        let policy = Box::new(Limited::new(limits));
        let (result, seen) = migrate(settings, policy, |seen| {
            wait_until("a round", || {
                seen.status
                    .lock()
                    .unwrap()
                    .is_some_and(|status| status.round > 0)
            });
            seen.controls.change(|settings| {
                settings.limits = change;
                settings.bandwidth = None;
            });
        });
        let report = result.unwrap_or_else(|failure| panic!("{name}: {failure}"));
        assert_eq!(report.forced, name == "force");
        assert!(!seen.armed.load(Ordering::Acquire));
        assert_eq!(seen.controls.cancel_token().freed_after(), None);
    }
}
