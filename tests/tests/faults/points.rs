//! Each process killed or interrupted at each point of a migration.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pagelift_tests::{Bed, Images, PATIENCE, guest_images, require};

use crate::ground::{Ground, Kind, Stop, Strike};
use crate::verdict::{Place, tell};

/// Where the guest may be then, with the exit codes of sender and receiver.
type Allowed = (Place, Option<i32>, Option<i32>);

/// Points at which the target has promised nothing: whatever strikes, the guest stays.
const BEFORE_READY: [Stop; 6] = [
    Stop::Sender("connected"),
    Stop::Sender("first-round"),
    Stop::Sender("later-round"),
    Stop::Sender("stopped"),
    Stop::Sender("last-pages"),
    Stop::Sender("placed"),
];

/// All of it may have come through before the sender stands still, and the target be ready.
const STATE: Stop = Stop::Sender("state");
const LOADED: Stop = Stop::Receiver("loaded");
const READY: Stop = Stop::Sender("ready");
const GIVEN_UP: Stop = Stop::Sender("given-up");
const GRANTED: Stop = Stop::Receiver("granted");
const RUNNING: Stop = Stop::Receiver("running");

/// It goes on as if nothing had happened.
const MOVES: Allowed = (Place::Target, Some(0), Some(0));

/// Strikes a guest at every point in turn; at those before [`STATE`] it ends as `stays` says,
/// and later as one of those in `later`. In the end the guest is sent in peace. `turn` says which
/// setting of `--compress` comes first, so that a point sees several of them.
fn strike_everywhere(
    images: &Images,
    turn: usize,
    strike: Strike,
    stays: Allowed,
    later: [(Stop, &[Allowed]); 6],
) -> Result<()> {
    let bed = Bed::new()?;
    let ground = Ground::new(&bed, images.clone(), Kind::Calm, turn, None)?;
    let mut guest = ground.boot()?;
    let before = BEFORE_READY.map(|stop| (stop, std::slice::from_ref(&stays)));
    for (stop, allowed) in before.into_iter().chain(later) {
        let what = format!("{strike:?} at {}", stop.point());
        let settings = guest.settings()?;
        let outcome = guest.struck_at(stop, strike).context(what.clone())?;
        tell(&what, &outcome);
        outcome.is_true(strike == Strike::KillTargetQemu)?;
        let place = outcome.place;
        let (sender, receiver) = outcome.codes();
        ensure!(
            allowed.contains(&(place, sender, receiver)),
            "{what}: {outcome}"
        );
        // A guest that ran on a target that was killed is lost: the source's is a past one.
        if place == Place::Lost || (place == Place::Neither && stop == RUNNING) {
            drop(outcome);
            guest = ground.boot()?;
            continue;
        }
        guest.settle(outcome).context(what.clone())?;
        // Those of the QEMU that has the guest now. An agent may take a moment after it was let in.
        let began = Instant::now();
        loop {
            let after = guest.settings()?;
            if after == settings {
                break;
            }
            let late = began.elapsed() > PATIENCE;
            ensure!(!late, "{what}: QEMU's settings: {after:?}");
            sleep(Duration::from_millis(20));
        }
    }
    guest.moves()?;
    drop(guest);
    drop(ground);
    bed.finish();
    Ok(())
}

#[test]
fn kill_the_sender() -> Result<()> {
    let images = require!(guest_images());
    // From `Ready` on the receiver cannot know what became of the guest: it runs at the source,
    // but for the moment between the commit and the hand-over.
    let unknown = (Place::Source, None, Some(4));
    let stays = (Place::Source, None, Some(1));
    let later: [(Stop, &[Allowed]); 6] = [
        (STATE, &[stays, unknown]),
        (LOADED, &[stays, unknown]),
        (READY, &[unknown]),
        (GIVEN_UP, &[(Place::Neither, None, Some(4))]),
        (GRANTED, &[(Place::Target, None, Some(0))]),
        (RUNNING, &[(Place::Target, None, Some(0))]),
    ];
    strike_everywhere(&images, 0, Strike::KillSender, stays, later)
}

#[test]
fn kill_the_receiver() -> Result<()> {
    let images = require!(guest_images());
    let stays = (Place::Source, Some(1), None);
    let unknown = (Place::Neither, Some(4), None);
    let later: [(Stop, &[Allowed]); 6] = [
        (STATE, &[stays, unknown]),
        (LOADED, &[stays]),
        // The hand-over may be on its way before the loss is noticed.
        (READY, &[stays, unknown]),
        (GIVEN_UP, &[stays, unknown]),
        (GRANTED, &[unknown]),
        (RUNNING, &[(Place::Target, Some(4), None)]),
    ];
    strike_everywhere(&images, 1, Strike::KillReceiver, stays, later)
}

#[test]
fn kill_the_target_qemu() -> Result<()> {
    let images = require!(guest_images());
    let stays = (Place::Source, Some(1), Some(1));
    // It had promised, and the source's word came or not: the receiver cannot know.
    let promised = [
        stays,
        (Place::Source, Some(1), Some(4)),
        (Place::Neither, Some(4), Some(4)),
    ];
    let later: [(Stop, &[Allowed]); 6] = [
        (STATE, &promised),
        (LOADED, &promised),
        (READY, &promised),
        (GIVEN_UP, &promised),
        (GRANTED, &[(Place::Neither, Some(4), Some(4))]),
        // It had arrived.
        (
            RUNNING,
            &[
                (Place::Neither, Some(0), Some(0)),
                (Place::Neither, Some(0), Some(4)),
                (Place::Neither, Some(4), Some(4)),
            ],
        ),
    ];
    strike_everywhere(&images, 2, Strike::KillTargetQemu, stays, later)
}

#[test]
fn kill_the_source_qemu() -> Result<()> {
    let images = require!(guest_images());
    let lost = (Place::Lost, Some(1), Some(1));
    let lost_or_unknown = [lost, (Place::Lost, Some(1), Some(4))];
    let later: [(Stop, &[Allowed]); 6] = [
        (STATE, &lost_or_unknown),
        (LOADED, &lost_or_unknown),
        (READY, &lost_or_unknown),
        // It had given the guest up.
        (GIVEN_UP, &[MOVES]),
        (GRANTED, &[MOVES]),
        (RUNNING, &[MOVES]),
    ];
    strike_everywhere(&images, 3, Strike::KillSourceQemu, lost, later)
}

#[test]
fn interrupt_the_sender() -> Result<()> {
    let images = require!(guest_images());
    let stays = (Place::Source, Some(3), Some(1));
    let later: [(Stop, &[Allowed]); 6] = [
        (STATE, &[stays]),
        (LOADED, &[stays]),
        (READY, &[MOVES]),
        (GIVEN_UP, &[MOVES]),
        (GRANTED, &[MOVES]),
        (RUNNING, &[MOVES]),
    ];
    strike_everywhere(&images, 4, Strike::InterruptSender, stays, later)
}

#[test]
fn interrupt_the_receiver() -> Result<()> {
    let images = require!(guest_images());
    let stays = (Place::Source, Some(1), Some(3));
    let later: [(Stop, &[Allowed]); 6] = [
        (STATE, &[stays, MOVES]),
        (LOADED, &[stays, MOVES]),
        // It has promised, and keeps its word.
        (READY, &[MOVES]),
        (GIVEN_UP, &[MOVES]),
        (GRANTED, &[MOVES]),
        (RUNNING, &[MOVES]),
    ];
    strike_everywhere(&images, 5, Strike::InterruptReceiver, stays, later)
}

/// The checks that nobody tracks the guest any more and that its disk is as it was could otherwise
/// pass for want of a sight.
#[test]
fn tracking_and_disks_can_be_seen_while_it_lasts() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let ground = Ground::new(&bed, images, Kind::Calm, 0, None)?;
    let guest = ground.boot()?;
    let (is_tracked, buffered) = guest.seen_meanwhile()?;
    ensure!(is_tracked, "the flags of smaps do not show it");
    ensure!(buffered == 1, "the block nodes do not show it: {buffered}");
    guest.check()?;
    drop(guest);
    drop(ground);
    bed.finish();
    Ok(())
}
