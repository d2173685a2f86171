//! A target that has no room for the guest.

use anyhow::{Result, ensure};
use pagelift_tests::{Bed, Tmpfs, guest_images, require};

use crate::ground::{Ground, Kind};
use crate::verdict::{Place, tell};

const MIB: u64 = 1 << 20;

/// QEMU makes its file longer than the file system is: room is taken page by page.
#[test]
fn a_full_file_system_on_the_target() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let disk = require!(Tmpfs::new(&bed, "small", 32 * MIB));
    let ground = Ground::new(&bed, images, Kind::Calm, 0, None)?;
    let bytes = ground.workload.memory_mib * MIB;
    let (here, there) = (bed.shm_file("here", bytes)?, bed.shm_file("there", bytes)?);
    let mut guest = ground.boot_with(|builder| builder.ram_file(here.path()))?;
    let small = disk.path().join("ram");
    let outcome = guest.sent_to(ground.target(|builder| builder.ram_file(&small))?)?;
    tell("no room", &outcome);
    outcome.is_true(false)?;
    ensure!(outcome.place == Place::Source, "{outcome}");
    ensure!(outcome.codes() == (Some(1), Some(1)), "{outcome}");
    for words in ["cannot write", "ram0", "No space left on device"] {
        ensure!(
            outcome.receiver.stderr.contains(words),
            "{words}: {outcome}"
        );
        ensure!(outcome.sender.stderr.contains(words), "{words}: {outcome}");
    }
    guest.settle(outcome)?;
    // There is.
    let outcome = guest.sent_to(ground.target(|builder| builder.ram_file(there.path()))?)?;
    ensure!(outcome.codes() == (Some(0), Some(0)), "{outcome}");
    guest.settle(outcome)?;
    drop(guest);
    drop(ground);
    drop((disk, here, there));
    bed.finish();
    Ok(())
}
