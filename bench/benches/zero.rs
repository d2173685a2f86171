//! The zero test over page sets that a guest has, in the cache and from memory.
//!
//! Beside it: each kernel alone, a naive loop, and the rate at which this machine reads memory
//! at all (the sum of one word per cache line), which bounds every kernel from memory.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]

mod thread_time;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pagelift_bench::memory::random_bytes;
use pagelift_bench::pages::Content;
use pagelift_engine::codec::{MemoryDigest, is_zero, simd};
use pagelift_engine::units::PageIndex;
use std::hint::black_box;
use std::time::{Duration, Instant};
use thread_time::ThreadTime;

const PAGE: usize = 4096;
/// Fits the second level cache.
const CACHED: usize = 256 << 10;
/// Far more than any cache holds.
const DRAM: usize = 256 << 20;
/// Memory that is read by one kernel before it is another's turn: more than the first two caches
/// hold, and so little that all of them have the same share of a busy machine.
const TURN: usize = 4 << 20;

/// Zeros in pages of their own: fresh memory would be one page of zeros mapped many times.
fn zeros(len: usize) -> Vec<u8> {
    let mut zeros = vec![1; len];
    black_box(&mut zeros).fill(0);
    zeros
}

/// Page sets by name.
fn page_sets(len: usize) -> Vec<(&'static str, Vec<u8>)> {
    let mut end = zeros(len);
    for page in end.chunks_exact_mut(PAGE) {
        page[PAGE - 1] = 1;
    }
    // One byte in the last quarter: no probe sees it.
    let mut late = zeros(len);
    for page in late.chunks_exact_mut(PAGE) {
        page[PAGE - 700] = 1;
    }
    let filled = |content: Content| {
        let pages = content.pages(4096, 7);
        pages.iter().copied().cycle().take(len).collect()
    };
    vec![
        ("zero", zeros(len)),
        ("text", filled(Content::Text)),
        ("code", filled(Content::Code)),
        ("heap", filled(Content::Heap)),
        ("random", filled(Content::Random)),
        ("bit-at-end", end),
        ("bit-late", late),
    ]
}

fn count_zero(data: &[u8], is_zero: impl Fn(&[u8]) -> bool) -> usize {
    data.chunks_exact(PAGE).filter(|page| is_zero(page)).count()
}

fn naive(data: &[u8]) -> bool {
    data.iter().all(|byte| *byte == 0)
}

fn read_rate(data: &[u8]) -> u64 {
    data.chunks_exact(64).map(|line| u64::from(line[0])).sum()
}

fn zero(c: &mut Criterion<ThreadTime>) {
    for (place, len) in [("cache", CACHED), ("dram", DRAM)] {
        let mut group = c.benchmark_group(format!("zero-{place}"));
        group
            .throughput(Throughput::Bytes(len as u64))
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        for (name, data) in page_sets(len) {
            group.bench_function(BenchmarkId::new("probes+fastest", name), |b| {
                b.iter(|| count_zero(black_box(&data), is_zero));
            });
            if name != "zero" {
                continue;
            }
            for kernel in simd::available() {
                group.bench_function(BenchmarkId::new(kernel.name(), name), |b| {
                    b.iter(|| count_zero(black_box(&data), |page| kernel.is_zero(page)));
                });
            }
            group.bench_function(BenchmarkId::new("naive", name), |b| {
                b.iter(|| count_zero(black_box(&data), naive));
            });
            group.bench_function("read-one-word-per-line", |b| {
                b.iter(|| read_rate(black_box(&data)));
            });
        }
        group.finish();
    }
}

/// The zero test from memory beside plain reading, in turns; printed, as criterion measures one
/// after the other.
fn turns(_: &mut Criterion<ThreadTime>) {
    let data = zeros(DRAM);
    let kernels = simd::available();
    let names = kernels.iter().map(|kernel| kernel.name());
    let names: Vec<_> = ["read", "probes+fastest"]
        .into_iter()
        .chain(names)
        .collect();
    let mut rates = vec![Vec::new(); names.len()];
    for round in 0..8 * names.len() {
        for (number, piece) in data.chunks_exact(TURN).enumerate() {
            let turn = (round + number) % names.len();
            let piece = black_box(piece);
            let start = Instant::now();
            match turn {
                0 => _ = black_box(read_rate(piece)),
                1 => _ = black_box(count_zero(piece, is_zero)),
                _ => _ = black_box(count_zero(piece, |page| kernels[turn - 2].is_zero(page))),
            }
            rates[turn].push(TURN as f64 / start.elapsed().as_nanos() as f64);
        }
    }
    let mut read = 0.0;
    for (name, rates) in names.iter().zip(&mut rates) {
        rates.sort_by(f64::total_cmp);
        let median = rates[rates.len() / 2];
        if *name == "read" {
            read = median;
        }
        println!(
            "in turns from memory: {name} {median:.1} GB/s, {:.2} of reading",
            median / read
        );
    }
}

fn digest(c: &mut Criterion<ThreadTime>) {
    let data = random_bytes(CACHED);
    let mut group = c.benchmark_group("digest-cache");
    group
        .throughput(Throughput::Bytes(CACHED as u64))
        .sample_size(10);
    group.bench_function("random", |b| {
        b.iter(|| {
            let mut digest = MemoryDigest::default();
            digest.add_pages(PageIndex(0), black_box(&data));
            digest.value()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ThreadTime);
    targets = turns, zero, digest
}
criterion_main!(benches);
