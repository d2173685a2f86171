//! The test guest and the harness around it: that they work, and that their checks can fail.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use pagelift_tests::content::{PAGE_BYTES, filled_page};
use pagelift_tests::{
    Bed, PATIENCE, Pattern, Qemu, TickError, Ticks, Workload, guest_images, require,
};
use serde_json::json;

const MIB: u64 = 1 << 20;

#[test]
fn boots_writes_ticks_and_verifies() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let workload = Workload {
        fill_bytes: 16 * MIB,
        rate_bytes_per_s: 8 * MIB,
        seed: 7,
        ..Workload::default()
    };
    let guest = Qemu::builder(&bed, &images)
        .workload(&workload)
        .start("guest")?;
    guest.wait_ready()?;
    guest.wait_ticks(5)?;
    let verified = guest.verify()?;
    assert_eq!((verified.pages, verified.bad), (workload.pages(), 0));
    guest.wait_ticks(2)?;

    let ticks = Ticks::check(&workload, &[guest.log()])?;
    let last = ticks.ticks.last().context("it ticked")?;
    assert!(last.number >= 7);
    assert!(last.writes_total() > 0);
    assert_eq!(guest.run_state()?, "running");
    assert_eq!(guest.pid(), guest.qemu_pid()?, "there is no prefix");
    assert!(guest.cpu_seconds() > 0.0);

    drop(guest);
    bed.finish();
    Ok(())
}

#[test]
fn idle_guest_ticks_and_writes_nothing() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let workload = Workload {
        fill_bytes: 4 * MIB,
        ..Workload::default()
    };
    let guest = Qemu::builder(&bed, &images)
        .workload(&workload)
        .start("guest")?;
    guest.wait_ticks(3)?;
    let ticks = Ticks::check(&workload, &[guest.log()])?;
    assert!(ticks.ticks.iter().all(|tick| tick.writes_total() == 0));
    drop(guest);
    bed.finish();
    Ok(())
}

#[test]
fn two_cpus_write_each_its_own_pages() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let workload = Workload {
        cpus: 2,
        threads: 2,
        fill_bytes: 16 * MIB + 4096,
        working_bytes: Some(4 * MIB),
        rate_bytes_per_s: 8 * MIB,
        width_bytes: 64,
        pattern: Pattern::Hot,
        ..Workload::default()
    };
    let guest = Qemu::builder(&bed, &images)
        .workload(&workload)
        .start("guest")?;
    guest.wait_ticks(5)?;
    let verified = guest.verify()?;
    assert_eq!((verified.pages, verified.bad), (workload.pages(), 0));
    let ticks = Ticks::check(&workload, &[guest.log()])?;
    let last = ticks.ticks.last().context("it ticked")?;
    assert!(
        last.writes.iter().all(|writes| *writes > 0),
        "both write: {last:?}"
    );
    drop(guest);
    bed.finish();
    Ok(())
}

/// As many writes to few pages as it takes to go round each page several times, for the widths
/// at both ends: the guest must still know what every page holds.
#[test]
fn pages_overwritten_many_times_still_verify() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    for (name, width_bytes, pattern) in [
        ("narrow", 8, Pattern::Uniform),
        ("wide", 4096, Pattern::Sequential),
    ] {
        let workload = Workload {
            fill_bytes: 2 * MIB,
            working_bytes: Some(16 * 4096),
            rate_bytes_per_s: u64::MAX,
            width_bytes,
            pattern,
            ..Workload::default()
        };
        let guest = Qemu::builder(&bed, &images)
            .workload(&workload)
            .start(name)?;
        guest.wait_ticks(3)?;
        assert_eq!(guest.verify()?.bad, 0);
        let ticks = Ticks::check(&workload, &[guest.log()])?;
        let last = ticks.ticks.last().context("it ticked")?;
        let writes_to_a_page = last.writes_total() / 16;
        assert!(
            writes_to_a_page > 2 * 4096 / u64::from(width_bytes),
            "{writes_to_a_page}"
        );
    }
    bed.finish();
    Ok(())
}

/// A guest's memory is damaged from outside, by one byte of one page: a check that cannot fail
/// would prove nothing.
#[test]
fn the_guest_finds_a_page_that_was_lost() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let workload = Workload {
        fill_bytes: 16 * MIB,
        ..Workload::default()
    };
    let ram = bed.shm_file("ram", workload.memory_mib * MIB)?;
    let guest = Qemu::builder(&bed, &images)
        .workload(&workload)
        .ram_file(ram.path())
        .start("guest")?;
    guest.wait_ticks(2)?;
    Ticks::check(&workload, &[guest.log()])?;

    let victim = 1234;
    let file = File::options().read(true).write(true).open(ram.path())?;
    let at = find_page(&file, &filled_page(workload.seed, victim))?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at + 2048)?;
    file.write_all_at(&[byte[0] ^ 1], at + 2048)?;

    // The rotating check gets there by itself, within one round.
    let seen = guest.log().lines.len();
    let lost = format!("LOST page {victim} thread 0 count 0 word 256 ");
    let (line, _) = guest.wait_serial_from(seen, PATIENCE, |line| line.starts_with(&lost))?;
    let log = guest.log();
    let ticks = log.lines[seen..line]
        .iter()
        .filter(|line| line.text.starts_with("tick "));
    assert!(ticks.count() as u64 <= workload.ticks_per_round() + 1);
    let error = Ticks::check(&workload, &[log]).expect_err("a page was lost");
    assert!(matches!(error, TickError::Lost { .. }), "{error}");
    // So does the full one.
    assert_eq!(guest.verify()?.bad, 1);

    // Mended, all is well again.
    file.write_all_at(&byte, at + 2048)?;
    assert_eq!(guest.verify()?.bad, 0);
    drop((guest, ram));
    bed.finish();
    Ok(())
}

/// Where in a file the page with that content begins; there must be exactly one.
fn find_page(file: &File, content: &[u8; PAGE_BYTES]) -> Result<u64> {
    let mut found = None;
    let mut page = [0; PAGE_BYTES];
    for at in (0..file.metadata()?.len()).step_by(PAGE_BYTES) {
        file.read_exact_at(&mut page, at)?;
        if page == *content {
            anyhow::ensure!(found.is_none(), "two pages have the same content");
            found = Some(at);
        }
    }
    found.context("no page of the file has that content")
}

/// QEMU's own migration as the reference: the guest's account must hold across two hosts.
#[test]
fn the_account_holds_across_a_migration_by_qemu() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let workload = Workload {
        cpus: 2,
        threads: 2,
        fill_bytes: 32 * MIB,
        rate_bytes_per_s: 8 * MIB,
        ..Workload::default()
    };
    let machine = Qemu::builder(&bed, &images).workload(&workload);
    let source = machine.clone().start("source")?;
    source.wait_ticks(3)?;
    let uri = format!("unix:{}", bed.dir().join("migration").display());
    let target = machine.arg("-incoming").arg(&uri).start("target")?;
    assert_eq!(target.run_state()?, "inmigrate");
    source.execute("migrate", json!({ "uri": uri }))?;
    target.wait_event("RESUME", PATIENCE)?;
    target.wait_ticks(5)?;
    assert_eq!(target.verify()?.bad, 0);
    assert_eq!(source.run_state()?, "postmigrate");

    let logs = [source.log(), target.log()];
    let ticks = Ticks::check(&workload, &logs)?;
    assert!(ticks.count_on(0) >= 3 && ticks.count_on(1) >= 5);
    // The other way round it is not this guest's story.
    let [source_log, target_log] = logs;
    assert!(Ticks::check(&workload, &[target_log, source_log]).is_err());
    drop((source, target));
    bed.finish();
    Ok(())
}
