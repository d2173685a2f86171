//! Processes killed and interrupted at random moments, without any help from the programs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use pagelift_tests::{Bed, guest_images, require};

use crate::ground::{Ground, Strike};
use crate::verdict::{Place, tell};

/// Attempts, each struck once.
const ATTEMPTS: u32 = 40;

/// Longer than an attempt takes that nobody strikes, on an idle machine.
const LATEST: Duration = Duration::from_millis(1600);

/// Draws of splitmix64 (Steele, Lea and Flood, 2014).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// `PAGELIFT_TEST_SEED` repeats the draws of a run; the moments are those of the machine.
#[test]
fn at_whatever_moment_it_strikes() -> Result<()> {
    let images = require!(guest_images());
    let seed = match std::env::var("PAGELIFT_TEST_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)?
            .subsec_nanos()
            .into(),
    };
    eprintln!("seed {seed}");
    let mut draws = Draws(seed);
    let bed = Bed::new()?;
    let ground = Ground::new(&bed, images, None);
    let mut guest = ground.boot()?;
    for number in 0..ATTEMPTS {
        let strike = [
            Strike::InterruptReceiver,
            Strike::InterruptSender,
            Strike::KillReceiver,
            Strike::KillSender,
            Strike::KillTargetQemu,
        ][(draws.next() % 5) as usize];
        let delay = Duration::from_nanos(draws.next() % LATEST.as_nanos() as u64);
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
