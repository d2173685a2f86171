//! The zero test over page sets that a guest has, in the cache and from memory.
//!
//! Beside it: each kernel alone, a naive loop, and the rate at which this machine reads memory
//! at all (the sum of one word per cache line), which bounds every kernel from memory.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pagelift_bench::memory::random_bytes;
use pagelift_engine::codec::{MemoryDigest, is_zero, simd};
use pagelift_engine::units::PageIndex;
use std::hint::black_box;

const PAGE: usize = 4096;
/// Fits the second level cache.
const CACHED: usize = 256 << 10;
/// Far more than any cache holds.
const DRAM: usize = 512 << 20;

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
    let text = b"Text has no zero bytes at all, and so the first probe settles every page. ";
    vec![
        ("zero", zeros(len)),
        ("text", text.iter().copied().cycle().take(len).collect()),
        ("random", random_bytes(len)),
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

fn zero(c: &mut Criterion) {
    for (place, len) in [("cache", CACHED), ("dram", DRAM)] {
        let mut group = c.benchmark_group(format!("zero-{place}"));
        group
            .throughput(Throughput::Bytes(len as u64))
            .sample_size(10);
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

fn digest(c: &mut Criterion) {
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

criterion_group!(benches, zero, digest);
criterion_main!(benches);
