//! Which way of placing pages, and of making them zero, costs least per byte.
//!
//! Everything works on memfds, the memory of a guest in direct mode. "fresh" means a file whose
//! pages were never touched: placing then includes the kernel's work of finding and clearing
//! pages, which is most of the cost on a virtual machine. Quote ratios, not absolute figures.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pagelift_bench::memory::{Mapping, memfd, random_bytes};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::mm::Advice;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Memory of one iteration: far more than the caches hold.
const LEN: usize = 256 << 20;
/// What one frame carries at most.
const CHUNK: usize = 256 << 10;
const PAGE: usize = 4096;

/// Times `place` on fresh memfds, leaving out their making and their end.
fn on_fresh(iterations: u64, mut place: impl FnMut(&File)) -> Duration {
    (0..iterations)
        .map(|_| {
            let file = memfd(LEN);
            let start = Instant::now();
            place(&file);
            start.elapsed()
        })
        .sum()
}

fn pwrite_all(file: &File, data: &[u8], chunk: usize) {
    for offset in (0..LEN).step_by(chunk) {
        let from = offset % data.len();
        file.write_all_at(&data[from..from + chunk], offset as u64)
            .expect("pwrite");
    }
}

/// Runs `place` on both halves of the memory, each on a thread of its own.
fn in_halves(place: impl Fn(usize, usize) + Sync) {
    std::thread::scope(|scope| {
        scope.spawn(|| place(0, LEN / 2));
        scope.spawn(|| place(LEN / 2, LEN));
    });
}

fn copy_all(to: &mut [u8], data: &[u8], chunk: usize) {
    for (number, piece) in to.chunks_exact_mut(chunk).enumerate() {
        let from = number * chunk % data.len();
        piece.copy_from_slice(&data[from..from + chunk]);
    }
    black_box(to);
}

/// A file whose pages are all there, with no zero page.
fn filled(data: &[u8]) -> File {
    let file = memfd(LEN);
    pwrite_all(&file, data, CHUNK);
    file
}

fn placing(c: &mut Criterion) {
    let data = random_bytes(1 << 20);
    let mut group = c.benchmark_group("place-fresh");
    group
        .throughput(Throughput::Bytes(LEN as u64))
        .sample_size(10);
    group.bench_function("pwrite-256k", |b| {
        b.iter_custom(|n| on_fresh(n, |file| pwrite_all(file, &data, CHUNK)));
    });
    group.bench_function("pwrite-4k", |b| {
        b.iter_custom(|n| on_fresh(n, |file| pwrite_all(file, &data, PAGE)));
    });
    group.bench_function("map-populate-256k-copy", |b| {
        b.iter_custom(|n| {
            on_fresh(n, |file| {
                let mut map = Mapping::of(file, LEN);
                for offset in (0..LEN).step_by(CHUNK) {
                    map.advise(offset, CHUNK, Advice::LinuxPopulateWrite);
                    copy_all(&mut map.bytes()[offset..offset + CHUNK], &data, CHUNK);
                }
            })
        });
    });
    group.bench_function("map-fault-copy", |b| {
        b.iter_custom(|n| {
            on_fresh(n, |file| {
                copy_all(Mapping::of(file, LEN).bytes(), &data, CHUNK);
            })
        });
    });
    // Two writers of one file: write(2) holds the file's lock, faults do not.
    group.bench_function("pwrite-256k-two-threads", |b| {
        b.iter_custom(|n| {
            on_fresh(n, |file| {
                in_halves(|from, to| {
                    for offset in (from..to).step_by(CHUNK) {
                        file.write_all_at(&data[..CHUNK], offset as u64)
                            .expect("pwrite");
                    }
                });
            })
        });
    });
    group.bench_function("map-populate-256k-copy-two-threads", |b| {
        b.iter_custom(|n| {
            on_fresh(n, |file| {
                in_halves(|from, to| {
                    let mut map = Mapping::of(file, LEN);
                    for offset in (from..to).step_by(CHUNK) {
                        map.advise(offset, CHUNK, Advice::LinuxPopulateWrite);
                        copy_all(&mut map.bytes()[offset..offset + CHUNK], &data, CHUNK);
                    }
                });
            })
        });
    });
    group.bench_function("fallocate-only", |b| {
        b.iter_custom(|n| {
            on_fresh(n, |file| {
                fallocate(file, FallocateFlags::empty(), 0, LEN as u64).expect("fallocate");
            })
        });
    });
    group.bench_function("map-populate-only", |b| {
        b.iter_custom(|n| {
            on_fresh(n, |file| {
                Mapping::of(file, LEN).advise(0, LEN, Advice::LinuxPopulateWrite);
            })
        });
    });
    group.finish();

    let mut group = c.benchmark_group("place-present");
    group
        .throughput(Throughput::Bytes(LEN as u64))
        .sample_size(10);
    let file = filled(&data);
    for chunk in [PAGE, CHUNK] {
        group.bench_function(BenchmarkId::new("pwrite", chunk), |b| {
            b.iter(|| pwrite_all(&file, &data, chunk));
        });
    }
    let mut map = Mapping::of(&file, LEN);
    map.advise(0, LEN, Advice::LinuxPopulateWrite);
    for chunk in [PAGE, CHUNK] {
        group.bench_function(BenchmarkId::new("copy", chunk), |b| {
            b.iter(|| copy_all(map.bytes(), &data, chunk));
        });
    }
    group.finish();
}

fn zeroing(c: &mut Criterion) {
    let data = random_bytes(1 << 20);
    let zeros = vec![0; CHUNK];
    let mut group = c.benchmark_group("zero-present");
    group
        .throughput(Throughput::Bytes(LEN as u64))
        .sample_size(10);
    for chunk in [PAGE, CHUNK] {
        let on_filled = |n: u64, zero: &dyn Fn(&File)| -> Duration {
            (0..n)
                .map(|_| {
                    let file = filled(&data);
                    let start = Instant::now();
                    zero(&file);
                    start.elapsed()
                })
                .sum()
        };
        group.bench_function(BenchmarkId::new("pwrite", chunk), |b| {
            b.iter_custom(|n| on_filled(n, &|file| pwrite_all(file, &zeros, chunk)));
        });
        group.bench_function(BenchmarkId::new("punch", chunk), |b| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            b.iter_custom(|n| {
                on_filled(n, &|file| {
                    for offset in (0..LEN).step_by(chunk) {
                        fallocate(file, flags, offset as u64, chunk as u64).expect("punch");
                    }
                })
            });
        });
    }
    // Holes, the usual case: only the last page of the file is there.
    let file = memfd(LEN);
    file.write_all_at(&data[..PAGE], (LEN - PAGE) as u64)
        .expect("pwrite");
    for chunk in [PAGE, CHUNK] {
        group.bench_function(BenchmarkId::new("punch-holes", chunk), |b| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            b.iter(|| {
                for offset in (0..LEN - CHUNK).step_by(chunk) {
                    fallocate(&file, flags, offset as u64, chunk as u64).expect("punch");
                }
            });
        });
        group.bench_function(BenchmarkId::new("seek-data-in-holes", chunk), |b| {
            b.iter(|| {
                for offset in (0..LEN - CHUNK).step_by(chunk) {
                    black_box(seek(&file, SeekFrom::Data(offset as u64)).expect("seek"));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, placing, zeroing);
criterion_main!(benches);
