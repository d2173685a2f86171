//! What the test guest can be told to write, and when: that it does, and that it verifies.

use anyhow::{Context, Result};
use pagelift_tests::ticks::Tick;
use pagelift_tests::{Bed, Content, Pattern, Phases, Qemu, Ticks, Workload, guest_images, require};

const MIB: u64 = 1 << 20;

/// The other patterns and contents, with so few pages that each is written many times.
#[test]
fn every_pattern_and_content_verifies() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let shapes = [
        ("zipf", Pattern::Zipf, Content::Random, 512),
        ("half", Pattern::Uniform, Content::Half, 4096),
        ("half-lines", Pattern::Zipf, Content::Half, 64),
        ("half-words", Pattern::Hot, Content::Half, 8),
        ("guestperf", Pattern::Sequential, Content::Guestperf, 4096),
    ];
    for (name, pattern, content, width_bytes) in shapes {
        let workload = Workload {
            cpus: 2,
            threads: 2,
            fill_bytes: 2 * MIB,
            working_bytes: Some(33 * 4096),
            rate_bytes_per_s: u64::MAX,
            content,
            pattern,
            width_bytes,
            ..Workload::default()
        };
        let guest = Qemu::builder(&bed, &images)
            .workload(&workload)
            .start(name)?;
        guest.wait_ticks(2)?;
        let verified = guest.verify()?;
        assert_eq!((verified.pages, verified.bad), (workload.pages(), 0));
        let ticks = Ticks::check(&workload, &[guest.log()])?;
        let last = ticks.ticks.last().context("it ticked")?;
        assert!(last.writes_total() > 10 * 33, "{name}: {last:?}");
    }
    bed.finish();
    Ok(())
}

/// Half of the memory must be what a codec can drop, and half of what guestperf leaves is 0xfe.
#[test]
fn contents_are_what_they_are_called() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let fill_bytes = 8 * MIB;
    for (name, content, least) in [
        ("half", Content::Half, fill_bytes / 4096 * 64 * 4),
        ("guestperf", Content::Guestperf, fill_bytes / 8),
    ] {
        let workload = Workload {
            fill_bytes,
            content,
            width_bytes: 4096,
            ..Workload::default()
        };
        let ram = bed.shm_file("ram", workload.memory_mib * MIB)?;
        let guest = Qemu::builder(&bed, &images)
            .workload(&workload)
            .ram_file(ram.path())
            .start(name)?;
        guest.wait_ticks(1)?;
        let word: u64 = match content {
            Content::Guestperf => 0xfefe_fefe_fefe_fefe,
            _ => 0x2074_6966_656c_6567,
        };
        let memory = std::fs::read(ram.path())?;
        let words = memory.chunks_exact(8);
        let found = words.filter(|found| **found == word.to_le_bytes()).count() as u64;
        assert!(found >= least, "{name}: {found} of {least}");
        drop(guest);
    }
    bed.finish();
    Ok(())
}

/// A guest with phases writes in some ticks and not in others.
#[test]
fn phases_are_busy_and_quiet() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let workload = Workload {
        fill_bytes: 4 * MIB,
        rate_bytes_per_s: 8 * MIB,
        phases: Some(Phases {
            busy_ms: 500,
            quiet_ms: 500,
        }),
        ..Workload::default()
    };
    let guest = Qemu::builder(&bed, &images)
        .workload(&workload)
        .start("guest")?;
    guest.wait_ticks(25)?;
    assert_eq!(guest.verify()?.bad, 0);
    let ticks = Ticks::check(&workload, &[guest.log()])?.ticks;
    let busy = |pair: &[Tick]| pair[0].writes < pair[1].writes;
    assert!(ticks.windows(2).any(busy), "{ticks:?}");
    assert!(!ticks.windows(2).all(busy), "{ticks:?}");
    drop(guest);
    bed.finish();
    Ok(())
}

#[test]
fn a_guest_that_computes_writes_at_its_rate_at_most() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let workload = Workload {
        fill_bytes: 4 * MIB,
        rate_bytes_per_s: 8 * MIB,
        compute: true,
        ..Workload::default()
    };
    let guest = Qemu::builder(&bed, &images)
        .workload(&workload)
        .start("guest")?;
    guest.wait_ticks(5)?;
    assert_eq!(guest.verify()?.bad, 0);
    let ticks = Ticks::check(&workload, &[guest.log()])?.ticks;
    let last = ticks.last().context("it ticked")?;
    // As fast as it goes is far more than a hundred times that.
    let most = 100 * workload.rate_bytes_per_s / 4096 * last.mono_ms / 1000;
    assert!((1..most).contains(&last.writes_total()), "{last:?}");
    drop(guest);
    bed.finish();
    Ok(())
}
