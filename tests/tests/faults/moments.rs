//! Processes killed and interrupted at random moments, without any help from the programs but
//! that a busy guest's sender says when it throttles it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pagelift_tests::{Bed, Images, guest_images, require};

use crate::draws::{Draws, number, seed};
use crate::ground::{COMPRESS, Ground, Kind, Strike};
use crate::verdict::{Place, tell};

/// Attempts, each struck once, and the latest moment for it: later than an attempt takes that
/// nobody strikes, on an idle machine. That of a busy guest begins when it is throttled.
const CALM: (u64, Duration) = (14, Duration::from_millis(1600));
const BUSY: (u64, Duration) = (5, Duration::from_millis(700));

/// The moments of a seed are those of the machine.
fn strike_at_random(images: Images, kind: Kind, strikes: (u64, Duration)) -> Result<()> {
    let seed = seed()?;
    let (strikes, latest) = strikes;
    let strikes = number("PAGELIFT_TEST_STRIKES")?.unwrap_or(strikes);
    eprintln!("seed {seed}");
    let mut draws = Draws::new(seed);
    let bed = Bed::new()?;
    let turn = draws.below(COMPRESS.len() as u64) as usize;
    let ground = Ground::new(&bed, images, kind, turn, None)?;
    let mut guest = ground.boot()?;
    for number in 0..strikes {
        let strike = [
            Strike::InterruptReceiver,
            Strike::InterruptSender,
            Strike::KillReceiver,
            Strike::KillSender,
            Strike::KillTargetQemu,
        ][(draws.next() % 5) as usize];
        let delay = Duration::from_nanos(draws.next() % latest.as_nanos() as u64);
        let what = format!("seed {seed}, attempt {number}: {strike:?} after {delay:.1?}");
        let settings = guest.settings()?;
        let outcome = guest.struck_after(delay, strike).context(what.clone())?;
        tell(&what, &outcome);
        outcome
            .is_true(strike == Strike::KillTargetQemu)
            .context(what.clone())?;
        let place = outcome.place;
        if place == Place::Neither {
            // Nobody promised otherwise.
            let (sender, receiver) = outcome.codes();
            let arrived = strike == Strike::KillTargetQemu && sender == Some(0);
            ensure!(
                arrived || sender == Some(4) || receiver == Some(4),
                "{what}: {outcome}"
            );
        }
        if strike == Strike::KillTargetQemu && place == Place::Neither {
            // Where the guest got to before is not known.
            drop(outcome);
            guest = ground.boot()?;
            continue;
        }
        guest.settle(outcome).context(what.clone())?;
        if place == Place::Source {
            ensure!(
                guest.settings()? == settings,
                "{what}: QEMU's settings are changed"
            );
        }
    }
    guest.moves()?;
    drop(guest);
    drop(ground);
    bed.finish();
    Ok(())
}

#[test]
fn at_whatever_moment_it_strikes() -> Result<()> {
    let images = require!(guest_images());
    strike_at_random(images, Kind::Calm, CALM)
}

#[test]
fn at_whatever_moment_it_strikes_a_throttled_guest() -> Result<()> {
    let images = require!(guest_images());
    strike_at_random(images, Kind::Busy, BUSY)
}
