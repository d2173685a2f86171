//! XBZRLE over pairs of pages as guests make them, per core, in the cache and from memory.
//!
//! Rates are bytes of guest pages per second, whatever the length of the deltas; the mean length
//! of each set's deltas is printed first. Beside them: the comparison alone with each kernel.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pagelift_bench::memory::random_bytes;
use pagelift_engine::codec::simd::{self, DIFF_WORDS};
use pagelift_engine::codec::xbzrle::{Encoded, decode, encode};
use pagelift_engine::units::PAGE_BYTES;
use std::hint::black_box;
use std::time::Duration;

/// Pairs of pages that fit the second level cache, and more of them than a branch predictor can
/// learn by heart.
const CACHED_PAGES: usize = 96;
/// Pairs of pages far beyond any cache: 256 MiB of old and as many of new contents.
const DRAM_PAGES: usize = 64 << 10;

type Page = [u8; PAGE_BYTES];

/// A small generator (xorshift64), to choose places with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end
    }
}

/// Changes a page in place.
type Change = fn(&mut Page, &mut Random);

/// Kinds of change by name.
const CHANGES: [(&str, Change); 10] = [
    ("unchanged", |_, _| {}),
    // A counter, a lock, a time stamp.
    ("one-word", |page, random| {
        let at = random.below(PAGE_BYTES / 8) * 8;
        flip(&mut page[at..at + 8]);
    }),
    // Objects of a heap: a few pointers and counters here and there, small values in them.
    ("heap", |page, random| {
        for _ in 0..12 {
            let at = random.below(PAGE_BYTES / 8) * 8;
            let bytes = [1, 2, 6, 8][random.below(4)];
            flip(&mut page[at..at + bytes]);
        }
    }),
    ("eighth-in-runs", |page, random| {
        for part in page.chunks_exact_mut(PAGE_BYTES / 4) {
            let at = random.below(PAGE_BYTES / 4 - 128);
            flip(&mut part[at..at + 128]);
        }
    }),
    ("eighth-in-words", |page, random| {
        for word in page.chunks_exact_mut(8) {
            if random.below(8) == 0 {
                flip(word);
            }
        }
    }),
    ("eighth-scattered", |page, random| {
        for byte in page {
            if random.below(8) == 0 {
                *byte = !*byte;
            }
        }
    }),
    // The most runs there can be.
    ("every-fourth", |page, _| {
        for byte in page.iter_mut().step_by(4) {
            *byte = !*byte;
        }
    }),
    ("alternating", |page, _| {
        for byte in page.iter_mut().step_by(2) {
            *byte = !*byte;
        }
    }),
    ("half-alternating", |page, _| {
        for byte in page[..PAGE_BYTES / 2].iter_mut().step_by(2) {
            *byte = !*byte;
        }
    }),
    ("all", |page, _| flip(page)),
];

fn flip(bytes: &mut [u8]) {
    for byte in bytes {
        *byte = !*byte;
    }
}

/// Old and new contents of `pages` pages.
fn pairs(pages: usize, change: Change) -> (Vec<Page>, Vec<Page>) {
    let mut random = Random(0x1234_5678_9abc_def1);
    let old: Vec<Page> = random_bytes(pages * PAGE_BYTES).as_chunks().0.to_vec();
    let mut new = old.clone();
    for page in &mut new {
        change(page, &mut random);
    }
    (old, new)
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

fn xbzrle(c: &mut Criterion) {
    for (place, pages) in [("cache", CACHED_PAGES), ("dram", DRAM_PAGES)] {
        let mut group = c.benchmark_group(format!("xbzrle-{place}"));
        group
            .throughput(Throughput::Bytes((pages * PAGE_BYTES) as u64))
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1));
        for (name, change) in CHANGES {
            if place == "dram" && !["one-word", "heap", "eighth-in-runs"].contains(&name) {
                continue;
            }
            let (old, new) = pairs(pages, change);
            let mut out = [0; PAGE_BYTES];
            let mean = encode_all(&old, &new, &mut out) as f64 / pages as f64;
            println!("{name}: {mean:.1} bytes per page");
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

fn diff(c: &mut Criterion) {
    let (old, new) = pairs(CACHED_PAGES, CHANGES[1].1);
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

criterion_group!(benches, xbzrle, diff);
criterion_main!(benches);
