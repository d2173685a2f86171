//! `scale`: what the size of a guest's memory costs, populated or not.
//!
//! Guests of many sizes, each with the same memory populated: at its beginning, or in areas of 2 MiB all
//! over it. The first table is about tracking alone: arming, page tables, the harvest that a downtime
//! has, by threads. The second moves the guests over loopback, both ends in this process, while they
//! write.

mod guest;
mod moving;
mod tracking;

use anyhow::Result;
use clap::Parser;
use pagelift_bench::machine;
use pagelift_engine::units::ByteCount;

use self::guest::{Guest, Pattern};

/// Measures what the size of memory costs.
#[derive(Debug, Parser)]
#[command(name = "scale", version)]
struct Options {
    /// Sizes of the guests
    #[arg(
        long,
        value_name = "SIZES",
        value_delimiter = ',',
        default_value = "1GiB,16GiB,64GiB,256GiB,1024GiB"
    )]
    sizes: Vec<ByteCount>,
    /// Memory that is populated in each; moving it takes as much again
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    populated: ByteCount,
    /// Threads that scan page tables
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Harvests of each kind; the median counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    tries: usize,
    /// Pages that the guests write each second while they move
    #[arg(long, value_name = "PAGES", default_value_t = 2000)]
    writes: u64,
    /// Do not move them
    #[arg(long)]
    tracking_only: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    println!("{}\n", machine::Kind::here());
    // Memory that was never used is slower at first, on a virtual machine.
    pagelift_bench::memory::touch(usize::try_from(options.populated.0)?);
    tracking::heading(&options.threads);
    for (size, pattern) in guests(&options) {
        let guest = Guest::new(size, options.populated, pattern)?;
        tracking::row(&guest, &options.threads, options.tries)?;
    }
    if options.tracking_only {
        return Ok(());
    }
    println!();
    moving::heading();
    for (size, pattern) in guests(&options) {
        let guest = Guest::new(size, options.populated, pattern)?;
        moving::row(guest, options.writes)?;
    }
    Ok(())
}

fn guests(options: &Options) -> impl Iterator<Item = (ByteCount, Pattern)> {
    let sizes = options.sizes.iter();
    sizes.flat_map(|size| [Pattern::Contiguous, Pattern::Scattered].map(|pattern| (*size, pattern)))
}
