//! XBZRLE over pairs of pages as guests make them, per core, in the cache and from memory.
//!
//! Rates are bytes of guest pages per second of processor time, whatever the length of the deltas;
//! the mean length of each set's deltas is printed first. Beside them: encoding every fourth byte with
//! each kernel, and the comparison alone.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]

mod thread_time;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pagelift_bench::pages::{Change, Content};
use pagelift_engine::codec::simd::{self, DIFF_WORDS};
use pagelift_engine::codec::xbzrle::{Encoded, decode, encode, encode_with};
use pagelift_engine::units::PAGE_BYTES;
use std::hint::black_box;
use std::time::Duration;
use thread_time::ThreadTime;

/// Pairs of pages that fit the second level cache, and more of them than a branch predictor can
/// learn by heart.
const CACHED_PAGES: usize = 96;
/// Pairs of pages far beyond any cache: 256 MiB of old and as many of new contents.
const DRAM_PAGES: usize = 64 << 10;

type Page = [u8; PAGE_BYTES];

/// Changes that are also measured from memory.
const FROM_DRAM: [Change; 3] = [Change::OneWord, Change::Heap, Change::EighthInRuns];

/// Old and new contents of `pages` pages of a heap.
fn pairs(pages: usize, change: Change) -> (Vec<Page>, Vec<Page>) {
    let heap = Content::Heap.pages(pages.min(4096), 7);
    let old: Vec<u8> = heap
        .iter()
        .copied()
        .cycle()
        .take(pages * PAGE_BYTES)
        .collect();
    let mut new = old.clone();
    change.apply(&mut new, 7);
    (old.as_chunks().0.to_vec(), new.as_chunks().0.to_vec())
}

fn encode_all(old: &[Page], new: &[Page], out: &mut Page) -> usize {
    old.iter()
        .zip(new)
        .map(|(old, new)| match encode(old, new, out) {
            Encoded::Unchanged => 0,
            Encoded::Delta(length) => length,
            Encoded::Overflow => PAGE_BYTES,
        })
        .sum()
}

fn deltas(old: &[Page], new: &[Page]) -> Vec<Vec<u8>> {
    let mut out = [0; PAGE_BYTES];
    old.iter()
        .zip(new)
        .filter_map(|(old, new)| match encode(old, new, &mut out) {
            Encoded::Delta(length) => Some(out[..length].to_vec()),
            Encoded::Unchanged | Encoded::Overflow => None,
        })
        .collect()
}

fn xbzrle(c: &mut Criterion<ThreadTime>) {
    for (place, pages) in [("cache", CACHED_PAGES), ("dram", DRAM_PAGES)] {
        let mut group = c.benchmark_group(format!("xbzrle-{place}"));
        group
            .throughput(Throughput::Bytes((pages * PAGE_BYTES) as u64))
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        for change in Change::ALL {
            if place == "dram" && !FROM_DRAM.contains(&change) {
                continue;
            }
            let name = change.name();
            let (old, new) = pairs(pages, change);
            let mut out = [0; PAGE_BYTES];
            let mean = encode_all(&old, &new, &mut out) as f64 / pages as f64;
            println!(
                "{name}: {mean:.1} bytes per page, ratio {:.1}",
                PAGE_BYTES as f64 / mean
            );
            group.bench_function(BenchmarkId::new("encode", name), |b| {
                b.iter(|| encode_all(black_box(&old), black_box(&new), &mut out));
            });
            let deltas = deltas(&old, &new);
            if deltas.len() < pages {
                continue;
            }
            let mut work = old.clone();
            group.bench_function(BenchmarkId::new("decode", name), |b| {
                b.iter(|| {
                    for (delta, page) in black_box(&deltas).iter().zip(&mut work) {
                        decode(delta, page).expect("an encoded delta");
                    }
                });
            });
        }
        group.finish();
    }
}

/// Every fourth byte, with each kernel: what a machine would get that has no wider one.
fn kernels(c: &mut Criterion<ThreadTime>) {
    let (old, new) = pairs(CACHED_PAGES, Change::EveryFourth);
    let mut group = c.benchmark_group("xbzrle-every-fourth");
    group
        .throughput(Throughput::Bytes((CACHED_PAGES * PAGE_BYTES) as u64))
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let mut out = [0; PAGE_BYTES];
    for kernel in simd::available_diff() {
        group.bench_function(kernel.name(), |b| {
            b.iter(|| {
                for (old, new) in black_box(&old).iter().zip(&new) {
                    black_box(encode_with(kernel, old, new, &mut out));
                }
            });
        });
    }
    group.finish();
}

fn diff(c: &mut Criterion<ThreadTime>) {
    let (old, new) = pairs(CACHED_PAGES, Change::OneWord);
    let mut group = c.benchmark_group("diff-cache");
    group
        .throughput(Throughput::Bytes((CACHED_PAGES * PAGE_BYTES) as u64))
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    for kernel in simd::available_diff() {
        group.bench_function(kernel.name(), |b| {
            let mut masks = [0; DIFF_WORDS];
            b.iter(|| {
                black_box(&old)
                    .iter()
                    .zip(&new)
                    .fold(0, |all, (old, new)| all | kernel.diff(old, new, &mut masks))
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ThreadTime);
    targets = xbzrle, kernels, diff
}
criterion_main!(benches);
