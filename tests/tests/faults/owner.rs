//! One owner: programs that hang in the downtime, or die after a promise.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pagelift_tests::{Bed, PATIENCE, guest_images, require};

use crate::ground::{Ground, Kind, Stop, Strike};
use crate::verdict::{Place, tell};

/// How long the guest may stand still in these tests.
const LIMIT: Duration = Duration::from_secs(2);

/// What the agent adds, and what a busy machine may.
const SLACK: Duration = Duration::from_secs(2);

/// A sender that stands still keeps the guest standing for no longer than its limit, and finds
/// it gone when it wakes up: it does not hand over what runs on.
#[test]
fn a_sender_that_hangs_does_not_keep_the_guest_standing() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let mut ground = Ground::new(&bed, images, Kind::Calm, 0, None)?;
    ground.downtime_limit = Some("2s");
    let mut guest = ground.boot()?;
    for point in ["stopped", "placed", "state", "ready", "committed"] {
        let what = format!("the sender hangs at {point}");
        let hang = Strike::HangSender(LIMIT + SLACK * 2);
        let outcome = guest.struck_at(Stop::Sender(point), hang)?;
        tell(&what, &outcome);
        outcome.is_true(false)?;
        ensure!(outcome.place == Place::Source, "{what}: {outcome}");
        ensure!(outcome.codes().0 == Some(1), "{what}: {outcome}");
        let after = outcome.guest_after.context("it ran on")?;
        ensure!(
            after < LIMIT + SLACK,
            "{what}: the guest stood still for {after:?}"
        );
        guest.settle(outcome).context(what)?;
    }
    guest.moves()?;
    drop(guest);
    drop(ground);
    bed.finish();
    Ok(())
}

/// Killed at any point after a promise, one command ends the doubt with one owner.
#[test]
fn what_was_promised_is_settled_after_a_crash() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let ground = Ground::new(&bed, images, Kind::Calm, 0, None)?;
    let mut guest = ground.boot()?;
    let cases = [
        (Stop::Sender("committed"), Strike::KillSender, Place::Source),
        (
            Stop::Receiver("prepared"),
            Strike::KillReceiver,
            Place::Source,
        ),
        (Stop::Sender("given-up"), Strike::KillSender, Place::Target),
        (
            Stop::Sender("given-up"),
            Strike::KillReceiver,
            Place::Target,
        ),
        (
            Stop::Receiver("granted"),
            Strike::KillReceiver,
            Place::Target,
        ),
    ];
    let mut refused = 0;
    for (stop, strike, place) in cases {
        let what = format!("{strike:?} at {}", stop.point());
        let outcome = guest.struck_at(stop, strike).context(what.clone())?;
        tell(&what, &outcome);
        outcome.is_true(false)?;
        if outcome.place == Place::Source {
            // Stopped and whole, it looks like a guest that can be sent.
            if ground.recorded(&outcome.target)? == "prepared" {
                let words = ground.says_unknown(&outcome.target).context(what.clone())?;
                ensure!(
                    words.contains("run 'pagelift settle' first"),
                    "{what}: {words}"
                );
                ensure!(ground.recorded(&outcome.target)? == "prepared", "{what}");
                refused += 1;
            }
            // A target that waits for a word that does not come is ended.
            let source = ["--to".into(), guest.qemu.qmp_path()];
            ground.settled(&outcome.target.qmp_path(), &source)?;
            outcome.target.wait_exit(PATIENCE)?;
        }
        let found = guest.settle(outcome).context(what.clone())?;
        ensure!(found == place, "{what}: it is on {found:?}");
    }
    ensure!(refused > 0, "no target was left prepared");
    guest.moves()?;
    drop(guest);
    drop(ground);
    bed.finish();
    Ok(())
}

/// Until all memory is there the target's QEMU has not begun: the guest can be sent to it again.
#[test]
fn a_target_that_lacks_memory_takes_the_guest_the_next_time() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let ground = Ground::new(&bed, images, Kind::Calm, 0, None)?;
    let mut guest = ground.boot()?;
    for strike in [Strike::KillSender, Strike::KillReceiver] {
        let what = format!("{strike:?}, and all memory is not there");
        let outcome = guest.struck_at(Stop::Sender("stopped"), strike)?;
        tell(&what, &outcome);
        outcome.is_true(false)?;
        ensure!(outcome.place == Place::Source, "{what}: {outcome}");
        let outcome = guest.sent_to(outcome.target).context(what.clone())?;
        ensure!(outcome.codes() == (Some(0), Some(0)), "{what}: {outcome}");
        let place = guest.settle(outcome).context(what.clone())?;
        ensure!(place == Place::Target, "{what}: it is on {place:?}");
    }
    drop(guest);
    drop(ground);
    bed.finish();
    Ok(())
}

/// Nor does `cont` start what a receiver has loaded that died before it promised anything: its QEMU is
/// ended by the agent. The guest has no disk, whose lock would do the same.
#[test]
fn what_was_loaded_and_not_promised_cannot_be_started() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let ground = Ground::new(&bed, images, Kind::Calm, 1, None)?.without_disks();
    let mut guest = ground.boot()?;
    let outcome = guest.struck_at(Stop::Receiver("loaded"), Strike::KillReceiver)?;
    tell("the receiver dies before its promise", &outcome);
    outcome.is_true(false)?;
    ensure!(outcome.place == Place::Source, "{outcome}");
    outcome.target.wait_exit(PATIENCE)?;
    guest.settle(outcome)?;
    guest.moves()?;
    drop(guest);
    drop(ground);
    bed.finish();
    Ok(())
}
