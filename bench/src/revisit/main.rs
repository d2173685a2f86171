//! A guest comes back to a host that kept its memory: what references save.
//!
//! ```text
//! cargo run --release -p pagelift-bench --bin revisit -- --memory 1GiB --changed 0.05
//! ```
//!
//! A guest of our own, which stands still, is sent over loopback TCP with a rate cap, once to a
//! target that has nothing and once to one that has the memory of the last visit in a file in
//! /dev/shm; each with pages sent raw and packed. Both ends run in this process. The content is
//! mixed (`pages.rs`); changed pages are spread in runs of 1 to 64. After each move the memories
//! are compared.

mod guest;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pagelift_bench::pages::Content;
use pagelift_engine::dirty::ManualTracker;
use pagelift_engine::memory::{FileMemory, Layout, Region, RegionFile};
use pagelift_engine::pipeline::{digest_memory, process_cpu};
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount, Rate};
use pagelift_engine::{
    BasePages, CompressSetting, DeltaCacheSize, GuestRam, Incoming, Outgoing, PolicyKind, Report,
};
use pagelift_tests::{Bed, supervised};
use pagelift_transports::Endpoint;

/// Seed of content and changes.
const SEED: u64 = 1;

#[derive(Debug, Parser)]
struct Options {
    /// Memory of the guest
    #[arg(long, default_value = "1GiB")]
    memory: ByteCount,
    /// Share of its pages that changed since the last visit, 0 to 1
    #[arg(long, default_value_t = 0.05)]
    changed: f64,
    /// Rate of the link
    #[arg(long, default_value = "1Gbit/s")]
    link: Rate,
    /// Data connections
    #[arg(long, default_value_t = 2)]
    channels: u16,
}

fn main() -> ExitCode {
    supervised(|| run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let pages = PageCount(options.memory.0 / PAGE_BYTES as u64);
    let bed = Bed::new()?;
    let dir = bed.shm_dir("guests")?;
    let (guest, old) = (dir.path().join("guest"), dir.path().join("base"));
    let changed = fill(&guest, &old, pages, options.changed)?;
    println!(
        "{} of mixed content, {:.1} % of its pages changed since the last visit; {} channels, \
         link {:.0} Mbit/s; load of the machine {}",
        options.memory,
        100.0 * changed as f64 / pages.0 as f64,
        options.channels,
        options.link.mbit_per_s(),
        std::fs::read_to_string("/proc/loadavg")?.trim(),
    );
    println!(
        "{:9} {:7} {:>8} {:>10} {:>11} {:>9} {:>9} {:>7}",
        "compress", "base", "time, s", "wire, MB", "references", "missing", "base pages", "CPU, s"
    );
    for compress in ["none", "auto"] {
        for kept in [false, true] {
            let setting = compress.parse().context("a way to compress")?;
            let files = if kept {
                vec![old.to_path_buf()]
            } else {
                Vec::new()
            };
            let (report, cpu) = travel(options, &guest, &files, pages, setting)?;
            println!(
                "{compress:9} {:7} {:8.2} {:10.1} {:11} {:9} {:9} {:7.2}",
                if kept { "all" } else { "nothing" },
                report.total.as_secs_f64(),
                report.page_wire_bytes.0 as f64 / 1e6,
                report.pages.reference,
                report.dedup.missing.0,
                report.dedup.base_pages.0,
                cpu.as_secs_f64(),
            );
        }
    }
    Ok(())
}

/// Writes the guest's memory, and that of its last visit; how many pages differ.
fn fill(
    guest: &std::path::Path,
    old: &std::path::Path,
    pages: PageCount,
    share: f64,
) -> Result<u64> {
    const PIECE: u64 = 16 << 10;
    let (guest, old) = (File::create(guest)?, File::create(old)?);
    let mut state = SEED;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut at, mut changed, mut left) = (0, 0, 0);
    while at < pages.0 {
        let count = PIECE.min(pages.0 - at);
        let mut content = Content::Mixed.pages(usize::try_from(count)?, SEED + at);
        old.write_all_at(&content, at * PAGE_BYTES as u64)?;
        for page in content.chunks_exact_mut(PAGE_BYTES) {
            // Runs of 32.5 pages on average.
            if left == 0 && (random() % 1_000_000) as f64 / 1e6 < share / 32.5 / (1.0 - share) {
                left = 1 + random() % 64;
            }
            if left > 0 {
                left -= 1;
                changed += 1;
                let word = random() as usize % (PAGE_BYTES / 8) * 8;
                page[word..word + 8].copy_from_slice(&(random() | 1).to_le_bytes());
            }
        }
        guest.write_all_at(&content, at * PAGE_BYTES as u64)?;
        at += count;
    }
    Ok(changed)
}

/// Moves the guest to a fresh target that has `kept`.
fn travel(
    options: &Options,
    guest: &std::path::Path,
    kept: &[std::path::PathBuf],
    pages: PageCount,
    compress: CompressSetting,
) -> Result<(Report, Duration)> {
    let layout = Layout::new(vec![Region {
        name: "ram".into(),
        pages,
        backing_page: ByteCount(PAGE_BYTES as u64),
    }])?;
    let memory = |file| FileMemory::new(layout.clone(), vec![RegionFile { file, offset: 0 }]);
    let source = Arc::new(memory(File::open(guest)?)?);
    let fresh = tempfile::tempfile_in("/dev/shm")?;
    fresh.set_len(pages.bytes().0)?;
    let target = Arc::new(memory(fresh)?);
    let listener = "tcp://127.0.0.1:0".parse::<Endpoint>()?.listen()?;
    let link = listener.address().parse::<Endpoint>()?.connect()?;
    let kept = BasePages::open(kept, u128::from(SEED))?;
    let incoming = Incoming::new(listener, target.clone(), guest::Arriving).base(kept);
    let ram = GuestRam::new(source.clone(), Box::new(ManualTracker::new(pages)));
    let outgoing = Outgoing::new(link, ram, guest::Leaving)
        .policy(PolicyKind::None)
        .bandwidth(options.link)
        .channels(options.channels)
        .compress(compress)
        .delta_cache(DeltaCacheSize::Bytes(ByteCount(128 << 20)));
    let receiving = incoming.start()?;
    let cpu = process_cpu();
    let report = outgoing.start()?.wait().result?;
    let cpu = process_cpu().saturating_sub(cpu);
    receiving.wait().result?;
    let digest = |memory: &FileMemory| digest_memory(memory, 2);
    ensure!(
        digest(&source)? == digest(&target)?,
        "the memories differ after the move"
    );
    Ok((report, cpu))
}
