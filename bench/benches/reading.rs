//! Which way of reading and checking pages costs least per byte.
//!
//! On memfds and anonymous memory whose pages are all there. Quote ratios, not absolute figures.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]
#![allow(
    unsafe_code,
    reason = "a view of mapped memory is made from its address"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pagelift_bench::memory::{Mapping, memfd, random_bytes};
use pagelift_engine::memory::{
    FileMemory, Layout, MappedMemory, PageBitmap, PageBuffer, ReadPages, Region, RegionFile,
};
use pagelift_engine::units::{ByteCount, PageCount, PageRange};
use rustix::mm::Advice;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

/// Memory of one iteration: more than the caches hold.
const LEN: usize = 256 << 20;
/// What one frame carries at most.
const CHUNK: usize = 256 << 10;
const PAGE: usize = 4096;

/// A file whose pages are all there, with no zero page.
fn filled(data: &[u8]) -> File {
    let file = memfd(LEN);
    for offset in (0..LEN).step_by(CHUNK) {
        file.write_all_at(&data[..CHUNK], offset as u64)
            .expect("pwrite");
    }
    file
}

fn reading(c: &mut Criterion) {
    let data = random_bytes(1 << 20);
    let file = filled(&data);
    let mut out = vec![0; CHUNK];
    let mut group = c.benchmark_group("read");
    group
        .throughput(Throughput::Bytes(LEN as u64))
        .sample_size(10);
    // Where a large allocation begins, and where the engine has its pages.
    let mut off = PageBuffer::new(CHUNK / PAGE);
    for (name, out) in [
        ("pread-vec", &mut out[..]),
        ("pread-half-page", &mut off[..]),
    ] {
        for chunk in [PAGE, CHUNK] {
            group.bench_function(BenchmarkId::new(name, chunk), |b| {
                b.iter(|| {
                    for offset in (0..LEN).step_by(chunk) {
                        file.read_exact_at(&mut out[..chunk], offset as u64)
                            .expect("pread");
                        black_box(&*out);
                    }
                });
            });
        }
    }
    group.bench_function("copy-from-fresh-map/256k", |b| {
        b.iter(|| {
            let mut map = Mapping::of(&file, LEN);
            for piece in map.bytes().chunks_exact(CHUNK) {
                out.copy_from_slice(piece);
                black_box(&out);
            }
        });
    });
    let mut map = Mapping::of(&file, LEN);
    map.advise(0, LEN, Advice::LinuxPopulateRead);
    for chunk in [PAGE, CHUNK] {
        group.bench_function(BenchmarkId::new("copy-from-map", chunk), |b| {
            b.iter(|| {
                for piece in map.bytes().chunks_exact(chunk) {
                    out[..chunk].copy_from_slice(piece);
                    black_box(&out);
                }
            });
        });
    }
    drop(map);
    group.finish();
}

/// The engine's own views of memory, 256 KiB at a time.
fn engine(c: &mut Criterion) {
    let data = random_bytes(1 << 20);
    let pages = PageCount((LEN / PAGE) as u64);
    let layout = || {
        let region = Region {
            name: "ram".into(),
            pages,
            backing_page: ByteCount(PAGE as u64),
        };
        Layout::new(vec![region]).expect("a layout of one region")
    };
    let place = RegionFile {
        file: filled(&data),
        offset: 0,
    };
    let file = FileMemory::new(layout(), vec![place]).expect("the file is long enough");
    let mut map = Mapping::anonymous(LEN);
    for piece in map.bytes().chunks_exact_mut(CHUNK) {
        piece.copy_from_slice(&data[..CHUNK]);
    }
    let start = std::ptr::with_exposed_provenance_mut(map.address() as usize);
    // SAFETY: the mapping is anonymous, outlives the view, and is not accessed otherwise.
    let mapped = unsafe { MappedMemory::new(layout(), vec![start]) };
    let mut out = PageBuffer::new(CHUNK / PAGE);
    let mut group = c.benchmark_group("engine");
    group
        .throughput(Throughput::Bytes(LEN as u64))
        .sample_size(10);
    let views: [(&str, &dyn ReadPages); 2] = [("file", &file), ("mapped", &mapped)];
    for (name, view) in views {
        group.bench_function(BenchmarkId::new("read-256k", name), |b| {
            b.iter(|| {
                for first in (0..pages.0).step_by(CHUNK / PAGE) {
                    let range = PageRange::new(first, (CHUNK / PAGE) as u64);
                    view.read(range, &mut out).expect("read");
                    black_box(&out);
                }
            });
        });
        group.bench_function(BenchmarkId::new("populated", name), |b| {
            let mut set = PageBitmap::new(pages);
            b.iter(|| view.populated(&mut set).expect("populated"));
        });
    }
    group.finish();
}

fn checksums(c: &mut Criterion) {
    let data = random_bytes(CHUNK);
    let mut group = c.benchmark_group("checksum-256k");
    group
        .throughput(Throughput::Bytes(CHUNK as u64))
        .sample_size(20);
    group.bench_function("crc32c", |b| {
        b.iter(|| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, black_box(&data)));
    });
    group.bench_function("xxh3-64", |b| {
        b.iter(|| xxhash_rust::xxh3::xxh3_64(black_box(&data)));
    });
    group.bench_function("xxh3-128-per-page", |b| {
        b.iter(|| {
            black_box(&data)
                .chunks_exact(PAGE)
                .enumerate()
                .map(|(page, content)| xxhash_rust::xxh3::xxh3_128_with_seed(content, page as u64))
                .fold(0u128, u128::wrapping_add)
        });
    });
    group.finish();
}

criterion_group!(benches, reading, engine, checksums);
criterion_main!(benches);
