//! The link cut, for good or for a while, and programs that hang.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pagelift_engine::migration::{IN_DOUBT, PEER_SILENCE};
use pagelift_tests::{Bed, Images, NetPair, guest_images, require};

use crate::ground::{Ground, Kind, Stop, Strike, THROTTLED};
use crate::verdict::{Place, tell};

/// Where the guest may be then, with the exit codes of sender and receiver.
type Allowed = (Place, Option<i32>, Option<i32>);

const STAYS: Allowed = (Place::Source, Some(1), Some(1));
const MOVES: Allowed = (Place::Target, Some(0), Some(0));

/// Longer than a connection lives, shorter than the source goes on asking.
const OUTAGE: Duration = Duration::from_secs(7);

/// Strikes a guest at each of the points, booting a new one where it cannot come back.
fn strike_at(
    images: &Images,
    kind: Kind,
    net: bool,
    cases: &[(Stop, Strike, &[Allowed])],
) -> Result<Option<pagelift_tests::Skip>> {
    let bed = Bed::new()?;
    let net = match net.then(|| NetPair::new(&bed, None)).transpose() {
        Ok(net) => net,
        Err(skip) => return Ok(Some(skip)),
    };
    let ground = Ground::new(&bed, images.clone(), kind, 0, net)?;
    let mut guest = ground.boot()?;
    for (stop, strike, allowed) in cases {
        let what = format!("{strike:?} at {}", stop.point());
        let outcome = guest.struck_at(*stop, *strike).context(what.clone())?;
        tell(&what, &outcome);
        outcome.is_true(false)?;
        let place = outcome.place;
        let (sender, receiver) = outcome.codes();
        ensure!(
            allowed.contains(&(place, sender, receiver)),
            "{what}: {outcome}"
        );
        let place = guest.settle(outcome).context(what)?;
        if !guest.can_go_on(place) {
            drop(guest);
            guest = ground.boot()?;
        }
    }
    guest.moves()?;
    drop(guest);
    drop(ground);
    bed.finish();
    Ok(None)
}

/// Every wait for a dead link is one for silence, some seconds long. A throttle goes on until then.
#[test]
fn a_cut_link_leaves_the_guest_on_the_source() -> Result<()> {
    let images = require!(guest_images());
    let at = |stop| (stop, Strike::Cut, &[STAYS] as &[Allowed]);
    let cases = [
        at(Stop::Sender("connected")),
        at(THROTTLED),
        at(Stop::Sender("stopped")),
        at(Stop::Sender("placed")),
    ];
    if let Some(skip) = strike_at(&images, Kind::Busy, true, &cases)? {
        require!(Err::<(), _>(skip));
    }
    Ok(())
}

#[test]
fn a_link_cut_during_the_hand_over_leaves_at_most_one_guest() -> Result<()> {
    let images = require!(guest_images());
    let neither = [(Place::Neither, Some(4), Some(4))];
    let arrived = [(Place::Target, Some(4), Some(0))];
    // The target's `Ready` may have come through before.
    let in_time = [STAYS, (Place::Source, Some(1), Some(4)), neither[0]];
    let cases: [(Stop, Strike, &[Allowed]); 4] = [
        (Stop::Sender("state"), Strike::Cut, &in_time),
        (Stop::Receiver("loaded"), Strike::Cut, &in_time[..2]),
        (Stop::Sender("given-up"), Strike::Cut, &neither),
        (Stop::Receiver("granted"), Strike::Cut, &arrived),
    ];
    if let Some(skip) = strike_at(&images, Kind::Calm, true, &cases)? {
        require!(Err::<(), _>(skip));
    }
    Ok(())
}

#[test]
fn a_link_that_comes_back_loses_nothing() -> Result<()> {
    let images = require!(guest_images());
    let at = |stop, outage| (stop, Strike::CutFor(outage), &[MOVES] as &[Allowed]);
    let moment = Duration::from_secs(1);
    let cases = [
        at(Stop::Sender("first-round"), moment),
        at(Stop::Sender("last-pages"), moment),
        at(Stop::Sender("state"), moment),
        at(Stop::Sender("given-up"), moment),
        at(Stop::Receiver("running"), moment),
        // The connection is lost, and the target asked anew.
        at(Stop::Sender("given-up"), OUTAGE),
        at(Stop::Receiver("running"), OUTAGE),
    ];
    if let Some(skip) = strike_at(&images, Kind::Calm, true, &cases)? {
        require!(Err::<(), _>(skip));
    }
    Ok(())
}

/// When it wakes up the guest runs on at the source, and must not run there as well.
#[test]
fn a_receiver_that_hangs_does_not_run_the_guest_later() -> Result<()> {
    let images = require!(guest_images());
    let strike = Strike::HangReceiver(Duration::from_secs(10));
    let at = |stop| (stop, strike, &[STAYS] as &[Allowed]);
    let cases = [
        at(THROTTLED),
        // Its `Ready` is not sent before the sender has gone.
        (
            Stop::Receiver("loaded"),
            strike,
            &[STAYS, (Place::Source, Some(1), Some(4))],
        ),
    ];
    strike_at(&images, Kind::Busy, false, &cases)?;
    Ok(())
}

/// The target has ended in doubt by then, and its user may have let the guest run there.
#[test]
fn a_sender_that_hangs_past_the_commit_does_not_take_the_guest_back() -> Result<()> {
    let images = require!(guest_images());
    let strike = Strike::HangSender(IN_DOUBT + PEER_SILENCE * 2);
    let neither = [(Place::Neither, Some(4), Some(4))];
    let cases: [(Stop, Strike, &[Allowed]); 1] = [(Stop::Sender("given-up"), strike, &neither)];
    strike_at(&images, Kind::Calm, false, &cases)?;
    Ok(())
}
