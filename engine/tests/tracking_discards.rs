//! Discarded pages of shared memory, in every way that the kernel has: reported once, and zero.

#![allow(unsafe_code, reason = "calls madvise on memory of its own")]

mod support;

use std::os::unix::fs::FileExt;

use pagelift_engine::dirty::{DirtySource, DiscardSwitch};
use pagelift_engine::memory::{FileMemory, PageBitmap};
use pagelift_engine::ram::GuestRam;
use pagelift_engine::sys::Userfaultfd;
use pagelift_engine::units::{PAGE_BYTES, PageCount, PageRange};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate};
use rustix::mm::{Advice, madvise};
use support::{HUGE_BYTES, HugePages, Mapping, harvest, memfd, tracker};

const PAGES: u64 = 64;
const PAGE: u64 = PAGE_BYTES as u64;

fn harvested(dirty: &mut dyn DirtySource) -> Vec<(u64, u64)> {
    let mut found = PageBitmap::new(PageCount(PAGES));
    dirty.harvest(&mut found).unwrap();
    found.runs().map(|run| (run.first.0, run.count.0)).collect()
}

#[test]
fn discards_of_any_kind_are_reported_once() {
    let Ok(file) = memfd(PAGES, MemfdFlags::empty()) else {
        eprintln!("SKIP: no memfd");
        return;
    };
    let mapping = Mapping::of_file(&file, PAGES).unwrap();
    for page in 0..32 {
        mapping.write(page, 7);
    }
    let Ok(uffd) = Userfaultfd::open() else {
        eprintln!("SKIP: no userfaultfd");
        return;
    };
    let memory = FileMemory::whole(file.try_clone().unwrap()).unwrap();
    let this = rustix::process::getpid();
    let (addresses, switch) = ([mapping.address()], DiscardSwitch::default());
    let made = GuestRam::of_discarding_process(this, uffd, memory, &addresses, switch.clone());
    let mut ram = made.unwrap();
    let dirty = ram.dirty();
    dirty.arm().unwrap();
    let mut populated = PageBitmap::new(PageCount(PAGES));
    populated.insert(PageRange::new(0, 32));
    dirty.note_populated(&populated).unwrap();
    // Whatever this reports, all is known from here on.
    harvested(dirty);
    assert_eq!(harvested(dirty), []);

    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 20 * PAGE, PAGE).unwrap();
    assert_eq!(harvested(dirty), [], "it is not looked for");
    switch.turn_on();
    assert_eq!(harvested(dirty), [(20, 1)]);
    fallocate(&file, punch, 3 * PAGE, 2 * PAGE).unwrap();
    // What holds nothing already is no news.
    fallocate(&file, punch, 40 * PAGE, PAGE).unwrap();
    assert_eq!(harvested(dirty), [(3, 2)]);
    assert_eq!(harvested(dirty), []);

    let address = (mapping.address() + 6 * PAGE) as *mut std::ffi::c_void;
    // SAFETY: the page is this test's mapping, and nothing refers into it.
    unsafe { madvise(address, PAGE_BYTES, Advice::LinuxRemove) }.unwrap();
    assert_eq!(harvested(dirty), [(6, 1)]);
    let address = (mapping.address() + 8 * PAGE) as *mut std::ffi::c_void;
    // SAFETY: as above; a shared file keeps its content.
    unsafe { madvise(address, PAGE_BYTES, Advice::LinuxDontNeed) }.unwrap();
    assert_eq!(harvested(dirty), [], "its content is still there");

    ftruncate(&file, 30 * PAGE).unwrap();
    ftruncate(&file, PAGES * PAGE).unwrap();
    assert_eq!(harvested(dirty), [(30, 2)]);

    // Written and discarded between two harvests; discarded, written, and discarded again.
    mapping.write(10, 9);
    fallocate(&file, punch, 10 * PAGE, PAGE).unwrap();
    assert_eq!(harvested(dirty), [(10, 1)]);
    mapping.write(3, 9);
    assert_eq!(harvested(dirty), [(3, 1)]);
    fallocate(&file, punch, 3 * PAGE, PAGE).unwrap();
    assert_eq!(harvested(dirty), [(3, 1)]);
    let mut content = [1; PAGE_BYTES];
    for page in [3, 6, 10, 30] {
        file.read_exact_at(&mut content, page * PAGE).unwrap();
        assert!(content.iter().all(|byte| *byte == 0), "page {page}");
    }
}

/// Of huge pages a discard is not reported, and the file knows no holes. What is written to such a page
/// afterwards is: it is not lost on a guest that expects nothing of a page that it gave up.
#[test]
fn a_huge_page_is_reported_when_it_is_written_after_a_discard() {
    const HUGE_PAGES: u64 = 4;
    const EACH: u64 = (HUGE_BYTES / PAGE_BYTES) as u64;
    let Some(_pool) = HugePages::reserve(HUGE_PAGES as usize) else {
        return;
    };
    let Ok(file) = memfd(HUGE_PAGES * EACH, MemfdFlags::HUGETLB) else {
        eprintln!("SKIP: no memfd of huge pages");
        return;
    };
    let mapping = Mapping::of_file(&file, HUGE_PAGES * EACH).unwrap();
    for page in 0..3 {
        mapping.write(page * EACH, 7);
    }
    let all = PageRange::new(0, HUGE_PAGES * EACH);
    let Some(mut tracker) = tracker(vec![mapping.tracked(0, all)]) else {
        return;
    };
    let mut harvested = || harvest(&mut tracker, all.count.0);
    harvested();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, HUGE_BYTES as u64, HUGE_BYTES as u64).unwrap();
    let removed = PageRange::new(2 * EACH, EACH);
    mapping.advise(removed, Advice::LinuxRemove).unwrap();
    assert_eq!(harvested(), []);
    for page in [1, 2, 3] {
        mapping.write(page * EACH, 8);
    }
    assert_eq!(harvested(), [PageRange::new(EACH, 3 * EACH)]);
}
