//! What it costs to hand out the pages of a round: the set of a large memory, a frame at a time.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::units::{PageCount, PageRange};

/// 64 GiB.
const PAGES: u64 = 1 << 24;

/// Pages of a frame.
const FRAME: u64 = 128;

fn handing_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("hand-out-64GiB");
    // One element is one page of the memory, in the set or not.
    group
        .throughput(Throughput::Elements(PAGES))
        .sample_size(10);
    for (name, run, step) in [
        ("whole", PAGES, PAGES),
        ("runs-of-32", 32, 64),
        ("one-in-1000", 1, 1000),
    ] {
        let mut set = PageBitmap::new(PageCount(PAGES));
        for first in (0..PAGES).step_by(step as usize) {
            set.insert(PageRange::new(first, run));
        }
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut at = 0;
                while let Some(run) = set.next_run(at, FRAME) {
                    at = black_box(run).end();
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, handing_out);
criterion_main!(benches);
