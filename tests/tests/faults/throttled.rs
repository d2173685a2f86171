//! Faults while a guest is throttled, and soon after it was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pagelift_control::agent_client::AgentClient;
use pagelift_engine::converge::ThrottleShare;
use pagelift_tests::{Bed, Images, guest_images, require};

use crate::ground::{Ground, Kind, Stop, Strike, THROTTLED};
use crate::verdict::{Place, tell};

/// Where the guest is then, with the exit codes of sender and receiver.
type End = (Place, Option<i32>, Option<i32>);

const fn source(sender: Option<i32>, receiver: Option<i32>) -> End {
    (Place::Source, sender, receiver)
}

/// Strikes a busy guest as the cases say, one after the other; `turn` says which setting of
/// `--compress` comes first.
fn strike_all(images: &Images, turn: usize, cases: &[(Stop, Strike, End)]) -> Result<()> {
    let bed = Bed::new()?;
    let ground = Ground::new(&bed, images.clone(), Kind::Busy, turn, None)?;
    let mut guest = ground.boot()?;
    for (stop, strike, end) in cases {
        let what = format!("{strike:?} at {}", stop.point());
        let settings = guest.settings()?;
        let outcome = guest.struck_at(*stop, *strike).context(what.clone())?;
        tell(&what, &outcome);
        outcome.is_true(*strike == Strike::KillTargetQemu)?;
        let place = outcome.place;
        let (sender, receiver) = outcome.codes();
        ensure!((place, sender, receiver) == *end, "{what}: {outcome}");
        if sender == Some(0) {
            let most = &outcome.sender.json()?["throttle_pct_max"];
            let was_throttled = most.as_f64().is_some_and(|percent| percent > 0.0);
            ensure!(was_throttled, "{what}: it was not throttled: {outcome}");
        }
        guest.settle(outcome).context(what.clone())?;
        if place == Place::Source {
            let after = guest.settings()?;
            ensure!(after == settings, "{what}: QEMU's settings: {after:?}");
        }
    }
    drop(guest);
    drop(ground);
    bed.finish();
    Ok(())
}

#[test]
fn a_throttled_guest_is_let_go() -> Result<()> {
    let images = require!(guest_images());
    let cases = [
        (THROTTLED, Strike::KillSender, source(None, Some(1))),
        (THROTTLED, Strike::InterruptSender, source(Some(3), Some(1))),
        (THROTTLED, Strike::KillReceiver, source(Some(1), None)),
        (
            THROTTLED,
            Strike::InterruptReceiver,
            source(Some(1), Some(3)),
        ),
        (THROTTLED, Strike::KillTargetQemu, source(Some(1), Some(1))),
    ];
    strike_all(&images, 0, &cases)
}

/// Up to the stop it is throttled, and stopped it has no throttle; wherever it goes on, it does so
/// at full speed.
#[test]
fn a_guest_that_was_throttled_goes_on_at_full_speed() -> Result<()> {
    let images = require!(guest_images());
    let at = Stop::Sender;
    let neither = (Place::Neither, None, Some(4));
    let moves = (Place::Target, Some(0), Some(0));
    let arrived = (Place::Target, Some(4), None);
    let cases = [
        (at("stopped"), Strike::KillSender, source(None, Some(1))),
        (
            at("last-pages"),
            Strike::KillReceiver,
            source(Some(1), None),
        ),
        (
            at("placed"),
            Strike::InterruptSender,
            source(Some(3), Some(1)),
        ),
        (at("given-up"), Strike::KillSender, neither),
        (at("ready"), Strike::InterruptReceiver, moves),
        (Stop::Receiver("running"), Strike::KillReceiver, arrived),
    ];
    strike_all(&images, 1, &cases)
}

/// The check that nobody throttles the guest any more could otherwise pass for want of a sight.
#[test]
fn a_throttle_can_be_seen_and_does_not_outlast_a_sender_that_hangs() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let ground = Ground::new(&bed, images, Kind::Busy, 0, None)?;
    let mut guest = ground.boot()?;
    let threads = guest.vcpu_threads()?;
    let share = ThrottleShare::permille(800);
    let shares: Vec<_> = threads.into_iter().map(|thread| (thread, share)).collect();
    let mut agent = AgentClient::connect(guest.qemu.qemu_pid()?)?;
    let lease = Duration::from_secs(60);
    agent.throttle(&shares, Duration::from_millis(5), lease)?;
    guest.wait_throttled(true)?;
    drop(agent);
    guest.check()?;

    let outcome = guest.let_go_while_the_sender_hangs()?;
    tell("the sender hangs", &outcome);
    outcome.is_true(false)?;
    guest.settle(outcome)?;
    drop(guest);
    drop(ground);
    bed.finish();
    Ok(())
}
