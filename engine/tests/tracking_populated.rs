//! What was never populated is not read, and what is populated while tracking begins is not lost.
//!
//! Threads write pages for the first time and again while a migration's first steps are taken: arm,
//! ask what is populated, copy that, and then copy what each harvest reports. At the end the copy
//! must equal the memory, and no page that nobody wrote may have been looked at.

#![allow(
    unsafe_code,
    reason = "mapped memory is given to the engine by its address"
)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pagelift_engine::memory::PageBitmap;
use pagelift_engine::ram::GuestRam;
use pagelift_engine::units::{PAGE_BYTES, PageRange};
use rustix::fs::MemfdFlags;
use rustix::mm::Advice;
use support::{Mapping, layout, memfd};

const PAGES: u64 = 12_000;
/// Each writes its own pages; the pages of one more are left alone.
const WRITERS: u64 = 2;

/// Memory with the mapping that its writers use.
fn private() -> (Mapping, GuestRam) {
    let mapping = Mapping::anonymous(PAGES);
    // Else a first write could populate a whole huge page.
    let all = PageRange::new(0, PAGES);
    mapping.advise(all, Advice::LinuxNoHugepage).unwrap();
    // SAFETY: the mapping is anonymous and is dropped after the memory; its writers use volatile
    // single-byte operations.
    let ram = unsafe { GuestRam::mapped(layout(&[PAGES]), vec![mapping.start()]) };
    (mapping, ram.unwrap())
}

fn shared() -> (Mapping, GuestRam) {
    let file = memfd(PAGES, MemfdFlags::empty()).unwrap();
    let mapping = Mapping::of_file(&file, PAGES).unwrap();
    let ram = GuestRam::from_file(file, mapping.start()).unwrap();
    (mapping, ram)
}

/// Pages of writer `number`, in an order that looks random.
fn pages_of(number: u64) -> impl Iterator<Item = u64> + Clone {
    let own = PAGES / (WRITERS + 1);
    (0..own).map(move |step| step * 7919 % own * (WRITERS + 1) + number)
}

/// Moves a memory under its writers, which have begun `head_start` before; tells how many pages
/// were written for the first time while tracking began.
fn copy_under_writers((mapping, mut ram): (Mapping, GuestRam), head_start: Duration) -> u64 {
    let (done, first_writes) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut copy = vec![0; PAGES as usize * PAGE_BYTES];
    let mut seen = PageBitmap::new(ram.layout().pages());
    let mut set = seen.clone();
    let mut meanwhile = 0;
    let mut take = |ram: &GuestRam, set: &PageBitmap| {
        seen.union(set);
        for run in set.runs() {
            let at = run.first.0 as usize * PAGE_BYTES;
            let out = &mut copy[at..at + run.len_bytes()];
            ram.memory().read(run, out).unwrap();
        }
    };
    thread::scope(|scope| {
        for number in 0..WRITERS {
            let (mapping, done, first_writes) = (&mapping, &done, &first_writes);
            scope.spawn(move || {
                for page in pages_of(number) {
                    mapping.write(page, 1);
                    first_writes.fetch_add(1, Ordering::Relaxed);
                    // They are to last while tracking begins.
                    let written = Instant::now();
                    while written.elapsed() < Duration::from_micros(5) {}
                }
                for (turn, page) in pages_of(number).cycle().enumerate() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    mapping.write(page, turn as u8);
                }
            });
        }
        thread::sleep(head_start);
        let before = first_writes.load(Ordering::Relaxed);
        ram.dirty().arm().unwrap();
        thread::sleep(Duration::from_millis(1));
        ram.memory().populated(&mut set).unwrap();
        meanwhile = first_writes.load(Ordering::Relaxed) - before;
        take(&ram, &set);
        for _ in 0..3 {
            set.clear();
            ram.dirty().harvest(&mut set).unwrap();
            take(&ram, &set);
        }
        done.store(true, Ordering::Relaxed);
    });
    set.clear();
    ram.dirty().harvest(&mut set).unwrap();
    take(&ram, &set);
    for page in 0..PAGES {
        let copied = copy[page as usize * PAGE_BYTES + 2000];
        if page % (WRITERS + 1) == WRITERS {
            assert!(!seen.contains(page), "nobody has written page {page}");
        } else {
            assert_eq!(copied, mapping.read(page), "page {page}");
        }
    }
    meanwhile
}

#[test]
fn pages_first_written_while_tracking_begins_are_found_and_others_never_looked_at() {
    if support::userfaultfd().is_none() {
        return;
    }
    for make in [private, shared] {
        let mut meanwhile = 0;
        for turn in 0..8 {
            meanwhile += copy_under_writers(make(), Duration::from_millis(turn));
        }
        assert!(meanwhile > 0, "no turn has tried what this is about");
    }
}
