//! The page-table tracker on real memory of this process, of each kind.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;

use pagelift_engine::dirty::DirtySource;
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::units::{PAGE_BYTES, PageCount, PageRange};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate};
use rustix::mm::Advice;
use support::{HUGE_BYTES, HugePages, Mapping, harvest, memfd, runs, tracker};

/// Two page tables of 512 entries and a bit.
const PAGES: u64 = 1100;
const ALL: PageRange = PageRange {
    first: pagelift_engine::units::PageIndex(0),
    count: PageCount(PAGES),
};

/// Anonymous memory, and a shared file with its mapping.
fn mappings() -> [(Option<File>, Mapping); 2] {
    let file = memfd(PAGES, MemfdFlags::empty()).unwrap();
    let shared = Mapping::of_file(&file, PAGES).unwrap();
    [(None, Mapping::anonymous(PAGES)), (Some(file), shared)]
}

#[test]
fn every_write_is_reported_exactly_once() {
    for (_, memory) in mappings() {
        // Half of the pages exist before tracking starts, the others do not.
        for page in 0..PAGES / 2 {
            memory.write(page, 1);
        }
        let Some(mut tracker) = tracker(vec![memory.tracked(0, ALL)]) else {
            return;
        };
        assert_eq!(
            harvest(&mut tracker, PAGES),
            [],
            "nothing written since arming"
        );
        for page in [0, 3, 4, 5, 511, 512, 549, 550, 551, 1000, PAGES - 1] {
            memory.write(page, 2);
        }
        let expected = runs(&[
            (0, 1),
            (3, 3),
            (511, 2),
            (549, 3),
            (1000, 1),
            (PAGES - 1, 1),
        ]);
        assert_eq!(harvest(&mut tracker, PAGES), expected);
        assert_eq!(harvest(&mut tracker, PAGES), [], "reported once");
        memory.write(4, 3);
        memory.write(4, 4);
        assert_eq!(harvest(&mut tracker, PAGES), runs(&[(4, 1)]), "armed again");
        let sum: u64 = (0..PAGES).map(|page| u64::from(memory.read(page))).sum();
        assert_eq!(
            sum,
            PAGES / 2 - 7 + 10 * 2 + 4,
            "tracking changes no content"
        );
        for page in 0..PAGES {
            memory.write(page, 5);
        }
        assert_eq!(harvest(&mut tracker, PAGES), [ALL]);
    }
}

/// Persistent memory may be in a file on a disk, whose pages the kernel writes back in between.
#[test]
fn writes_to_a_file_on_a_disk_are_reported_also_after_it_was_written_back() {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.set_len(ALL.bytes().0).unwrap();
    let memory = Mapping::of_file(&file, PAGES).unwrap();
    for page in 0..PAGES / 2 {
        memory.write(page, 1);
    }
    let Some(mut tracker) = tracker(vec![memory.tracked(0, ALL)]) else {
        return;
    };
    file.sync_all().unwrap();
    assert_eq!(
        harvest(&mut tracker, PAGES),
        [],
        "writing back is not writing"
    );
    for page in [0, 511, PAGES - 1] {
        memory.write(page, 2);
    }
    file.sync_all().unwrap();
    let expected = runs(&[(0, 1), (511, 1), (PAGES - 1, 1)]);
    assert_eq!(harvest(&mut tracker, PAGES), expected);
    memory.write(511, 3);
    assert_eq!(harvest(&mut tracker, PAGES), runs(&[(511, 1)]));
    assert_eq!(harvest(&mut tracker, PAGES), []);
}

#[test]
fn reading_is_not_writing() {
    for (_, memory) in mappings() {
        memory.write(7, 1);
        let Some(mut tracker) = tracker(vec![memory.tracked(0, ALL)]) else {
            return;
        };
        for page in 0..PAGES {
            memory.read(page);
        }
        assert_eq!(harvest(&mut tracker, PAGES), []);
        memory.write(9, 1);
        assert_eq!(
            harvest(&mut tracker, PAGES),
            runs(&[(9, 1)]),
            "a zero page was mapped"
        );
    }
}

#[test]
fn pages_filled_through_the_file_are_tracked_once_the_process_writes_them() {
    let file = memfd(PAGES, MemfdFlags::empty()).unwrap();
    let memory = Mapping::of_file(&file, PAGES).unwrap();
    let page = vec![9; PAGE_BYTES];
    file.write_all_at(&page, 20 * PAGE_BYTES as u64).unwrap();
    let Some(mut tracker) = tracker(vec![memory.tracked(0, ALL)]) else {
        return;
    };
    file.write_all_at(&page, 30 * PAGE_BYTES as u64).unwrap();
    assert_eq!(
        harvest(&mut tracker, PAGES),
        [],
        "not the process's own write"
    );
    memory.write(20, 1);
    memory.write(30, 1);
    assert_eq!(harvest(&mut tracker, PAGES), runs(&[(20, 1), (30, 1)]));
}

/// Disks of the guest that go through the page cache, and vhost-net.
#[test]
fn what_the_kernel_copies_is_reported() {
    let disk = tempfile::tempfile().unwrap();
    disk.write_all_at(&[8; PAGE_BYTES], 0).unwrap();
    for (_, memory) in mappings() {
        memory.write(7, 1);
        let Some(mut tracker) = tracker(vec![memory.tracked(0, ALL)]) else {
            return;
        };
        memory.read_file(7, &disk);
        memory.read_file(600, &disk);
        assert_eq!(harvest(&mut tracker, PAGES), runs(&[(7, 1), (600, 1)]));
        assert_eq!((memory.read(7), memory.read(600)), (8, 8));
        memory.read_file(7, &disk);
        assert_eq!(harvest(&mut tracker, PAGES), runs(&[(7, 1)]), "armed again");
    }
}

#[test]
fn discarded_anonymous_pages_are_reported() {
    let memory = Mapping::anonymous(PAGES);
    for page in 0..PAGES {
        memory.write(page, 1);
    }
    let Some(mut tracker) = tracker(vec![memory.tracked(0, ALL)]) else {
        return;
    };
    memory
        .advise(PageRange::new(3, 2), Advice::LinuxDontNeed)
        .unwrap();
    assert_eq!(harvest(&mut tracker, PAGES), runs(&[(3, 2)]));
    memory.write(3, 1);
    assert_eq!(harvest(&mut tracker, PAGES), runs(&[(3, 1)]));
    memory.write(4, 1);
    assert_eq!(harvest(&mut tracker, PAGES), runs(&[(4, 1)]));
    // Whole page tables may go with their pages.
    memory.advise(ALL, Advice::LinuxDontNeed).unwrap();
    assert_eq!(harvest(&mut tracker, PAGES), [ALL]);
    memory.advise(ALL, Advice::LinuxDontNeed).unwrap();
    assert_eq!(harvest(&mut tracker, PAGES), [], "there was nothing left");
    memory.write(600, 1);
    memory
        .advise(PageRange::new(590, 20), Advice::LinuxDontNeed)
        .unwrap();
    memory.read(600);
    memory.write(700, 1);
    assert_eq!(harvest(&mut tracker, PAGES), runs(&[(700, 1)]));
    memory
        .advise(PageRange::new(690, 20), Advice::LinuxDontNeed)
        .unwrap();
    memory.read(700);
    assert_eq!(
        harvest(&mut tracker, PAGES),
        runs(&[(700, 1)]),
        "the kernel's page of zeros is there, and the page gone"
    );
}

#[test]
fn a_page_that_was_written_and_then_punched_out_is_reported() {
    let file = memfd(PAGES, MemfdFlags::empty()).unwrap();
    let memory = Mapping::of_file(&file, PAGES).unwrap();
    for page in 0..40 {
        memory.write(page, 1);
    }
    let Some(mut tracker) = tracker(vec![memory.tracked(0, ALL)]) else {
        return;
    };
    memory.write(10, 2);
    memory.write(11, 2);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 10 * PAGE_BYTES as u64, PAGE_BYTES as u64).unwrap();
    assert_eq!(harvest(&mut tracker, PAGES), runs(&[(10, 2)]));
    memory.advise(ALL, Advice::LinuxDontNeed).unwrap();
    assert_eq!(
        harvest(&mut tracker, PAGES),
        [],
        "shared content is still there"
    );
    memory.write(10, 3);
    memory.write(12, 3);
    assert_eq!(
        harvest(&mut tracker, PAGES),
        runs(&[(10, 1), (12, 1)]),
        "still tracked"
    );
}

#[test]
fn ranges_are_numbered_by_the_layout_and_not_by_address() {
    let [(_, anonymous), (_, shared)] = mappings();
    let ranges = vec![
        shared.tracked(100, PageRange::new(0, 50)),
        anonymous.tracked(7, PageRange::new(50, 600)),
        shared.tracked(0, PageRange::new(650, 100)),
    ];
    let Some(mut tracker) = tracker(ranges) else {
        return;
    };
    for page in [0, 99, 100, 149, 150] {
        shared.write(page, 1);
    }
    for page in [6, 7, 606, 607] {
        anonymous.write(page, 1);
    }
    let expected = runs(&[(0, 1), (49, 2), (649, 2), (749, 1)]);
    assert_eq!(harvest(&mut tracker, 750), expected);
}

#[test]
fn more_runs_than_one_call_reports_are_all_found() {
    const MANY: u64 = 5000;
    let file = memfd(MANY, MemfdFlags::empty()).unwrap();
    for memory in [
        Mapping::anonymous(MANY),
        Mapping::of_file(&file, MANY).unwrap(),
    ] {
        let Some(mut tracker) = tracker(vec![memory.tracked(0, PageRange::new(0, MANY))]) else {
            return;
        };
        for page in (0..MANY).step_by(2) {
            memory.write(page, 1);
        }
        let found = harvest(&mut tracker, MANY);
        let expected: Vec<_> = (0..MANY)
            .step_by(2)
            .map(|page| PageRange::new(page, 1))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(harvest(&mut tracker, MANY), []);
    }
}

#[test]
fn what_is_given_back_is_reported_again_once() {
    let memory = Mapping::anonymous(PAGES);
    let Some(mut tracker) = tracker(vec![memory.tracked(0, ALL)]) else {
        return;
    };
    memory.write(5, 1);
    let mut lost = PageBitmap::new(ALL.count);
    tracker.harvest(&mut lost).unwrap();
    tracker.give_back(&lost);
    lost.insert(PageRange::new(8, 1));
    tracker.give_back(&lost);
    memory.write(6, 1);
    assert_eq!(harvest(&mut tracker, PAGES), runs(&[(5, 2), (8, 1)]));
    assert_eq!(harvest(&mut tracker, PAGES), []);
}

#[test]
fn arming_again_starts_afresh() {
    let memory = Mapping::anonymous(PAGES);
    let Some(mut tracker) = tracker(vec![memory.tracked(0, ALL)]) else {
        return;
    };
    memory.write(5, 1);
    tracker.arm().unwrap();
    assert_eq!(harvest(&mut tracker, PAGES), []);
    tracker.disarm();
    memory.write(6, 1);
    tracker.arm().unwrap();
    memory.write(7, 1);
    assert_eq!(harvest(&mut tracker, PAGES), runs(&[(7, 1)]));
}

#[test]
fn a_failure_to_arm_leaves_nothing_armed() {
    let memory = Mapping::anonymous(PAGES);
    let unmapped = pagelift_engine::dirty::TrackedRange {
        address: 4096,
        range: PageRange::new(PAGES, 1),
    };
    let Some(uffd) = support::userfaultfd() else {
        return;
    };
    let ranges = vec![memory.tracked(0, ALL), unmapped];
    let mut tracker = pagelift_engine::dirty::PagemapTracker::new(None, uffd, ranges).unwrap();
    let error = tracker.arm().unwrap_err().to_string();
    assert!(error.starts_with("UFFDIO_REGISTER failed"), "{error}");
    // Another userfaultfd can have the range: it is not registered with the first any more.
    let second = support::userfaultfd().unwrap();
    second
        .register_write_protect(memory.address(), ALL.bytes().0)
        .unwrap();
}

#[test]
fn memory_mapped_over_tracked_memory_is_noticed() {
    let memory = Mapping::anonymous(PAGES);
    let Some(mut tracker) = tracker(vec![memory.tracked(0, ALL)]) else {
        return;
    };
    memory.replace(PageRange::new(100, 1));
    let mut dirty = PageBitmap::new(ALL.count);
    let error = tracker.harvest(&mut dirty).unwrap_err().to_string();
    assert!(error.contains("no longer registered"), "{error}");
}

#[test]
fn huge_pages_are_reported_as_all_the_pages_they_hold() {
    const HUGE_PAGES: u64 = 4;
    const PER_HUGE: u64 = (HUGE_BYTES / PAGE_BYTES) as u64;
    let Some(_pool) = HugePages::reserve(HUGE_PAGES as usize) else {
        return;
    };
    let count = HUGE_PAGES * PER_HUGE;
    let file = memfd(count, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB).unwrap();
    let memory = Mapping::of_file(&file, count).unwrap();
    memory.write(0, 1);
    let all = memory.tracked(0, PageRange::new(0, count));
    let Some(mut tracker) = tracker(vec![all]) else {
        return;
    };
    assert_eq!(harvest(&mut tracker, count), []);
    memory.write(3, 2);
    memory.write(3 * PER_HUGE - 1, 2);
    let expected = runs(&[(0, PER_HUGE), (2 * PER_HUGE, PER_HUGE)]);
    assert_eq!(harvest(&mut tracker, count), expected);
    assert_eq!(harvest(&mut tracker, count), []);
    memory.write(PER_HUGE, 1);
    memory.write(2 * PER_HUGE, 1);
    assert_eq!(
        harvest(&mut tracker, count),
        runs(&[(PER_HUGE, 2 * PER_HUGE)])
    );
    tracker.disarm();
    assert_eq!(memory.read(3), 2);
}
