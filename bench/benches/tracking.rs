//! What dirty tracking by page tables costs: arming, scanning, and the writer's faults.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pagelift_bench::memory::{Mapping, memfd};
use pagelift_engine::dirty::{DirtySource, PagemapTracker, TrackedRange};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::sys::Userfaultfd;
use pagelift_engine::units::{PageCount, PageRange};
use rustix::mm::Advice;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const LEN: usize = 1 << 30;
const PAGES: u64 = (LEN / PAGE) as u64;

/// Writes one word in each of `share` (0 to 1) of the pages, spread evenly.
fn touch(memory: &mut Mapping, share: f64) -> u64 {
    let step = (1.0 / share) as usize;
    let mut pages = 0;
    for page in (0..PAGES as usize).step_by(step) {
        memory.bytes()[page * PAGE] = memory.bytes()[page * PAGE].wrapping_add(1);
        pages += 1;
    }
    pages
}

fn tracker(memory: &Mapping) -> PagemapTracker {
    let uffd = Userfaultfd::open().expect("a userfaultfd");
    uffd.enable_async_write_protect().expect("Linux 6.7");
    let all = TrackedRange {
        address: memory.address(),
        range: PageRange::new(0, PAGES),
    };
    PagemapTracker::new(None, uffd, vec![all]).expect("PAGEMAP_SCAN")
}

fn tracking(c: &mut Criterion) {
    let file = memfd(LEN);
    let kinds = [
        ("memfd", Mapping::of(&file, LEN)),
        ("anonymous", Mapping::anonymous(LEN)),
    ];
    for (kind, mut memory) in kinds {
        memory.advise(0, LEN, Advice::LinuxPopulateWrite);
        let mut tracker = tracker(&memory);
        let mut dirty = PageBitmap::new(PageCount(PAGES));
        // One element is one page of the memory, dirty or not.
        let mut group = c.benchmark_group(format!("track-1GiB-{kind}"));
        group
            .throughput(Throughput::Elements(PAGES))
            .sample_size(10);
        group.bench_function("arm", |b| b.iter(|| tracker.arm().expect("arm")));
        group.bench_function("scan-clean", |b| {
            b.iter(|| tracker.harvest(&mut dirty).expect("harvest"));
        });
        for (name, share) in [("1-percent", 0.01), ("33-percent", 0.3334)] {
            group.bench_function(format!("scan-{name}-dirty"), |b| {
                b.iter_custom(|iterations| {
                    let mut scanning = Duration::ZERO;
                    for _ in 0..iterations {
                        touch(&mut memory, share);
                        let start = Instant::now();
                        tracker.harvest(&mut dirty).expect("harvest");
                        scanning += start.elapsed();
                    }
                    scanning
                });
            });
        }
        group.finish();

        // One element is one first write to a protected page.
        let mut group = c.benchmark_group(format!("fault-{kind}"));
        let first_writes = touch(&mut memory, 0.01);
        group
            .throughput(Throughput::Elements(first_writes))
            .sample_size(10);
        group.bench_function("first-write", |b| {
            b.iter_custom(|iterations| {
                let mut writing = Duration::ZERO;
                for _ in 0..iterations {
                    tracker.harvest(&mut dirty).expect("harvest");
                    let start = Instant::now();
                    touch(&mut memory, 0.01);
                    writing += start.elapsed();
                }
                writing
            });
        });
        group.finish();
    }
}

criterion_group!(benches, tracking);
criterion_main!(benches);
