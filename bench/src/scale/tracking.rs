//! The cost of tracking.

use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{Context, Result};
use pagelift_bench::figures::middle;
use pagelift_engine::memory::PageBitmap;

use crate::guest::{Guest, own_mib};

/// Pages that are written before a harvest that is not clean.
const WRITTEN: usize = 1000;

pub(crate) fn heading(threads: &[usize]) {
    print!("| memory | populated | arm ms | find populated ms | page tables MiB |");
    threads
        .iter()
        .for_each(|n| print!(" clean harvest, {n} threads, ms |"));
    println!(" {WRITTEN} pages written ms | disarm ms |");
    println!(
        "|---|---|---|---|---|{}---|---|",
        "---|".repeat(threads.len())
    );
}

pub(crate) fn row(guest: &Guest, threads: &[usize], tries: usize) -> Result<()> {
    let mut ram = guest.ram()?;
    let mut pages = PageBitmap::new(ram.layout().pages());
    let before = own_mib("VmPTE");
    let arm = timed_ms(|| ram.dirty().arm())?;
    let find = timed_ms(|| ram.memory().populated(&mut pages))?;
    ram.dirty().note_populated(&pages)?;
    let tables = own_mib("VmPTE") - before;
    print!(
        "| {} | {} | {arm:.2} | {find:.2} | {tables:.1} |",
        guest.size, guest.pattern
    );
    for threads in threads {
        let threads = NonZeroUsize::new(*threads).context("no thread scans nothing")?;
        ram.dirty().set_scan_threads(threads)?;
        let mut took = Vec::new();
        for _ in 0..tries.max(1) {
            pages.clear();
            took.push(timed_ms(|| ram.dirty().harvest(&mut pages))?);
            anyhow::ensure!(pages.is_empty(), "nothing was written");
        }
        print!(" {:.2} |", middle(took.into_iter()));
    }
    let mut took = Vec::new();
    for _ in 0..tries.max(1) {
        for number in 0..WRITTEN {
            let page = number * (guest.pages() / WRITTEN).max(1) % guest.pages();
            guest.mapping.poke(guest.offset(page), 1);
        }
        pages.clear();
        took.push(timed_ms(|| ram.dirty().harvest(&mut pages))?);
        anyhow::ensure!(pages.count().0 == WRITTEN as u64, "all are found");
    }
    let began = Instant::now();
    ram.dirty().disarm();
    let disarm = began.elapsed().as_secs_f64() * 1e3;
    println!(" {:.2} | {disarm:.2} |", middle(took.into_iter()));
    Ok(())
}

fn timed_ms<E>(act: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let began = Instant::now();
    act()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}
