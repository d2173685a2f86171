//! Packing and unpacking blocks of pages like those of a guest, and choosing how.
//!
//! Time is processor time of the thread, so that a busy machine does not show as slow codecs.
//! Beside the engine's codecs: LZ4 by the C library. zstd is the C library in both cases, so it
//! is its own reference. Ratios are printed before the times, as `ratio: ...` lines.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]

mod thread_time;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pagelift_bench::pages::Content;
use pagelift_engine::codec::block::{BlockDecoder, BlockEncoder};
use pagelift_engine::codec::select::{BlockClass, policy};
use pagelift_engine::codec::{Codec, CompressSetting, SameFilled, ZstdLevel, is_zero};
use std::hint::black_box;
use std::time::Duration;
use thread_time::ThreadTime;

const PAGE: usize = 4096;

/// Pages of each kind, before those that are zero are taken out: 4 MiB.
const PAGES: usize = 1024;

fn codecs() -> Vec<Codec> {
    let zstd = [-50, -20, -7, -1, 1, 3, 7]
        .into_iter()
        .filter_map(|level| ZstdLevel::new(level).ok())
        .map(Codec::Zstd);
    [Codec::Lz4].into_iter().chain(zstd).collect()
}

/// The pages that are not zero.
fn kept(content: Content) -> Vec<u8> {
    let pages = content.pages(PAGES, 7);
    let kept = pages.chunks(PAGE).filter(|page| !is_zero(page));
    kept.flatten().copied().collect()
}

/// Packs all of `data` and returns the length of the blocks, raw ones included.
fn pack(encoder: &mut BlockEncoder, codec: Codec, data: &[u8], block: usize) -> Vec<Vec<u8>> {
    let mut out = vec![0; block];
    data.chunks(block)
        .map(|pages| {
            let len = encoder.encode(codec, pages, &mut out);
            len.map_or_else(|| pages.to_vec(), |len| out[..len].to_vec())
        })
        .collect()
}

fn blocks(c: &mut Criterion<ThreadTime>) {
    let contents = [Content::Text, Content::Code, Content::Heap, Content::Random];
    for content in contents.into_iter().chain([Content::Mixed]) {
        let data = kept(content);
        for pages in [1, 4, 16, 64] {
            let block = pages * PAGE;
            let mut group = c.benchmark_group(format!("{}-{pages}", content.name()));
            group
                .throughput(Throughput::Bytes(data.len() as u64))
                .sample_size(10)
                .warm_up_time(Duration::from_millis(50))
                .measurement_time(Duration::from_millis(300));
            let mut out = vec![0; 2 * block];
            for codec in codecs() {
                let mut encoder = BlockEncoder::new(&[codec]);
                let mut decoder = BlockDecoder::new();
                let packed = pack(&mut encoder, codec, &data, block);
                let bytes: usize = packed.iter().map(Vec::len).sum();
                let ratio = data.len() as f64 / bytes as f64;
                eprintln!("ratio: {} {pages} {codec} {ratio:.3}", content.name());
                group.bench_function(BenchmarkId::new("pack", codec), |b| {
                    b.iter(|| {
                        data.chunks(block)
                            .filter_map(|pages| encoder.encode(codec, pages, &mut out))
                            .sum::<usize>()
                    });
                });
                let format = codec.format().expect("a codec that packs");
                group.bench_function(BenchmarkId::new("unpack", codec), |b| {
                    b.iter(|| {
                        for (packed, pages) in packed.iter().zip(data.chunks(block)) {
                            let out = &mut out[..pages.len()];
                            if packed.len() < pages.len() {
                                decoder.decode(format, packed, out).expect("our own block");
                            } else {
                                out.copy_from_slice(packed);
                            }
                        }
                    });
                });
            }
            c_lz4(&mut group, &data, block);
            group.finish();
        }
    }
}

/// LZ4 by the C library, one shot, as `LZ4_compress_fast` and `LZ4_decompress_safe`.
fn c_lz4(group: &mut criterion::BenchmarkGroup<'_, ThreadTime>, data: &[u8], block: usize) {
    let mut out = vec![0; 2 * block + 64];
    let packed: Vec<Vec<u8>> = data
        .chunks(block)
        .map(|pages| {
            let len = lzzzz::lz4::compress(pages, &mut out, 1).expect("there is room");
            out[..len].to_vec()
        })
        .collect();
    group.bench_function("pack/c-lz4", |b| {
        b.iter(|| {
            data.chunks(block)
                .map(|pages| lzzzz::lz4::compress(pages, &mut out, 1).expect("there is room"))
                .sum::<usize>()
        });
    });
    group.bench_function("unpack/c-lz4", |b| {
        b.iter(|| {
            for (packed, pages) in packed.iter().zip(data.chunks(block)) {
                lzzzz::lz4::decompress(packed, &mut out[..pages.len()]).expect("our own block");
            }
        });
    });
}

/// What is spent before a page is packed at all.
fn looking(c: &mut Criterion<ThreadTime>) {
    let mut group = c.benchmark_group("looking");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(300));
    let mut filled = vec![0; 64 * PAGE];
    SameFilled(*b"pagelift").write(&mut filled);
    let sets = [("filled", filled), ("text", kept(Content::Text))];
    for (name, pages) in &sets {
        let pages = &pages[..64 * PAGE];
        group.bench_function(BenchmarkId::new("fill-64-pages", name), |b| {
            b.iter(|| {
                let pages = black_box(pages).chunks(PAGE);
                pages.filter(|page| SameFilled::of(page).is_some()).count()
            });
        });
        group.bench_function(BenchmarkId::new("fill-64-pages-naive", name), |b| {
            b.iter(|| {
                let pages = black_box(pages).chunks(PAGE);
                let naive = |page: &&[u8]| page.chunks(8).all(|word| *word == page[..8]);
                pages.filter(naive).count()
            });
        });
        group.bench_function(BenchmarkId::new("class-of-64-pages", name), |b| {
            b.iter(|| BlockClass::of(black_box(pages)));
        });
    }
    let class = BlockClass::of(&sets[1].1);
    let mut policy = policy(CompressSetting::Auto, |_| true, 2, 2.0);
    group.bench_function("choose", |b| {
        b.iter(|| policy.choose(black_box(class), 64 * PAGE));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ThreadTime);
    targets = looking, blocks
}
criterion_main!(benches);
