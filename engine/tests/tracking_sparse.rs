//! Files of which only the areas with data are tracked: nothing is lost by it, whatever happens to
//! the pages and to the page tables.

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;

use pagelift_engine::dirty::{DirtySource, DiscardSwitch};
use pagelift_engine::memory::{FileMemory, PageBitmap, RegionFile};
use pagelift_engine::ram::GuestRam;
use pagelift_engine::sys::{PagemapScan, Userfaultfd};
use pagelift_engine::units::{PAGE_BYTES, PageCount, PageRange};
use proptest::prelude::*;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate};
use rustix::mm::Advice;
use support::{Mapping, layout, memfd, runs};

/// Pages that one page table is for.
const AREA: u64 = 512;
/// More areas than there are on any side of a bitmap's block, and a bit.
const PAGES: u64 = 80 * AREA + 100;
const ALL: PageRange = PageRange {
    first: pagelift_engine::units::PageIndex(0),
    count: PageCount(PAGES),
};
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// A guest in a file.
struct Guest {
    file: File,
    mapping: Mapping,
    ram: GuestRam,
}

impl Guest {
    fn new(file: File) -> Option<Self> {
        support::userfaultfd()?;
        let mapping = Mapping::of_file(&file, PAGES).unwrap();
        let copy = file.try_clone().unwrap();
        let ram = GuestRam::from_file(copy, mapping.start()).unwrap();
        Some(Self { file, mapping, ram })
    }

    /// One whose discarded pages are looked for.
    fn discarding(file: File) -> Option<Self> {
        support::userfaultfd()?;
        let mapping = Mapping::of_file(&file, PAGES).unwrap();
        let memory = FileMemory::whole(file.try_clone().unwrap()).unwrap();
        let this = rustix::process::getpid();
        let uffd = Userfaultfd::open().unwrap();
        let addresses = [mapping.address()];
        let switch = DiscardSwitch::on();
        let ram = GuestRam::of_discarding_process(this, uffd, memory, &addresses, switch).unwrap();
        Some(Self { file, mapping, ram })
    }

    /// Arms, and finds out what is sent at first, as a migration does.
    fn arm(&mut self) -> PageBitmap {
        self.ram.dirty().arm().unwrap();
        let mut populated = PageBitmap::new(ALL.count);
        self.ram.memory().populated(&mut populated).unwrap();
        self.ram.dirty().note_populated(&populated).unwrap();
        populated
    }

    fn harvest(&mut self) -> Vec<PageRange> {
        let mut dirty = PageBitmap::new(ALL.count);
        self.ram.dirty().harvest(&mut dirty).unwrap();
        dirty.runs().collect()
    }

    fn punch(&self, first: u64, pages: u64) {
        let page = PAGE_BYTES as u64;
        fallocate(&self.file, PUNCH, first * page, pages * page).unwrap();
    }

    /// Places of `pages` that have a page or a marker in the page table.
    fn marked(&self, pages: PageRange) -> u64 {
        let mut marked = 0;
        let start = self.mapping.address() + pages.first.0 * PAGE_BYTES as u64;
        let mut scan = PagemapScan::open(None).unwrap();
        scan.populated(start..start + pages.bytes().0, |run| {
            marked += (run.end - run.start) / PAGE_BYTES as u64;
        })
        .unwrap();
        marked
    }
}

fn sparse_file() -> File {
    memfd(PAGES, MemfdFlags::empty()).unwrap()
}

#[test]
fn what_holds_nothing_is_not_marked_and_what_comes_there_is_found() {
    let Some(mut guest) = Guest::new(sparse_file()) else {
        return;
    };
    guest.mapping.write(20 * AREA + 7, 1);
    guest.arm();
    // The mapping need not begin where a page table does.
    let marked = guest.marked(ALL);
    assert!(marked <= AREA, "{marked} places are marked");
    assert_eq!(guest.harvest(), []);
    assert_eq!(guest.marked(ALL), marked, "a harvest marks nothing");

    // In an area of its own, twice; then tracked by the page, as all others.
    guest.mapping.write(50 * AREA, 1);
    guest.mapping.write(50 * AREA + 3, 1);
    let expected = runs(&[(50 * AREA, 1), (50 * AREA + 3, 1)]);
    assert_eq!(guest.harvest(), expected);
    assert_eq!(guest.harvest(), []);
    guest.mapping.write(50 * AREA + 3, 2);
    guest.mapping.write(50 * AREA + 4, 2);
    assert_eq!(guest.harvest(), runs(&[(50 * AREA + 3, 2)]));
    guest.mapping.write(20 * AREA + 7, 2);
    guest.mapping.write(20 * AREA + 8, 2);
    assert_eq!(guest.harvest(), runs(&[(20 * AREA + 7, 2)]));
    // The ends.
    guest.mapping.write(0, 1);
    guest.mapping.write(PAGES - 1, 1);
    assert_eq!(guest.harvest(), runs(&[(0, 1), (PAGES - 1, 1)]));
    assert!(guest.marked(ALL) <= 5 * AREA);
    guest.ram.dirty().disarm();
    assert!(guest.marked(ALL) < 10, "no marker is left");
}

#[test]
fn pages_that_left_the_page_table_are_found_in_the_file() {
    let Some(mut guest) = Guest::new(sparse_file()) else {
        return;
    };
    guest.mapping.write(3 * AREA, 1);
    guest.arm();
    let zap = |guest: &Guest, first, pages| {
        let range = PageRange::new(first, pages);
        guest.mapping.advise(range, Advice::LinuxDontNeed).unwrap();
    };
    // Where there was nothing: the page alone, and all that is around it.
    guest.mapping.write(30 * AREA + 9, 1);
    zap(&guest, 30 * AREA + 9, 1);
    guest.mapping.write(60 * AREA + 9, 1);
    zap(&guest, 59 * AREA, 3 * AREA);
    // Where it was tracked before.
    guest.mapping.write(3 * AREA, 2);
    zap(&guest, 2 * AREA, 3 * AREA);
    let expected = runs(&[(3 * AREA, 1), (30 * AREA + 9, 1), (60 * AREA + 9, 1)]);
    assert_eq!(guest.harvest(), expected);
    assert_eq!(guest.harvest(), []);
    zap(&guest, 0, PAGES);
    assert_eq!(guest.harvest(), [], "the content is still there");
    for page in [3 * AREA, 30 * AREA + 9, 60 * AREA + 9] {
        guest.mapping.write(page, 3);
    }
    assert_eq!(guest.harvest(), expected);
}

#[test]
fn a_page_that_comes_while_tracking_begins_is_tracked_from_then_on() {
    let Some(mut guest) = Guest::discarding(sparse_file()) else {
        return;
    };
    guest.ram.dirty().arm().unwrap();
    guest.mapping.write(40 * AREA + 1, 1);
    let mut populated = PageBitmap::new(ALL.count);
    guest.ram.memory().populated(&mut populated).unwrap();
    guest.mapping.write(40 * AREA + 2, 1);
    guest.mapping.write(70 * AREA, 1);
    guest.ram.dirty().note_populated(&populated).unwrap();
    // The first was sent and is gone since.
    guest.punch(40 * AREA + 1, 1);
    let expected = runs(&[(40 * AREA + 1, 2), (70 * AREA, 1)]);
    assert_eq!(guest.harvest(), expected);
    assert_eq!(guest.harvest(), []);
}

#[test]
fn pages_of_huge_files_are_tracked_as_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mount = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .arg(folder.path())
            .output();
        output.is_ok_and(|output| output.status.success())
    };
    if !mount(
        "mount",
        &["-t", "tmpfs", "-o", "huge=always,size=256m", "none"],
    ) {
        eprintln!("SKIP: no tmpfs of huge pages can be mounted");
        return;
    }
    let path = folder.path().join("ram");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path);
    let file = file.unwrap();
    assert!(mount("umount", &["-l"]));
    file.set_len(ALL.bytes().0).unwrap();
    let Some(mut guest) = Guest::new(file) else {
        return;
    };
    guest.mapping.write(4 * AREA + 5, 1);
    guest.arm();
    assert_eq!(guest.harvest(), []);
    guest.mapping.write(4 * AREA + 6, 1);
    guest.mapping.write(33 * AREA + 6, 1);
    let found = guest.harvest();
    let has = |page: u64| found.iter().any(|run| run.indices().contains(&page));
    assert!(has(4 * AREA + 6) && has(33 * AREA + 6), "{found:?}");
    assert_eq!(guest.harvest(), []);
    guest.mapping.write(33 * AREA + 9, 1);
    assert_eq!(guest.harvest(), runs(&[(33 * AREA + 9, 1)]));
}

#[test]
fn regions_within_a_file_are_asked_for_themselves() {
    let Some(uffd) = support::userfaultfd() else {
        return;
    };
    drop(uffd);
    // The second half of the file is the first region, which begins within an area.
    let file = sparse_file();
    let mapping = Mapping::of_file(&file, PAGES).unwrap();
    let half = PAGES / 2 + 1;
    let places = [half, 0].map(|first| RegionFile {
        file: file.try_clone().unwrap(),
        offset: first * PAGE_BYTES as u64,
    });
    let regions = layout(&[PAGES - half, half]);
    let memory = FileMemory::new(regions, places.into()).unwrap();
    let second = mapping.start().wrapping_add(half as usize * PAGE_BYTES);
    let addresses = [second.cast_const(), mapping.start().cast_const()];
    let mut ram = GuestRam::from_files(memory, &addresses).unwrap();
    ram.dirty().arm().unwrap();
    for page in [0, half - 1, half, PAGES - 1] {
        mapping.write(page, 1);
    }
    let mut dirty = PageBitmap::new(ALL.count);
    ram.dirty().harvest(&mut dirty).unwrap();
    let rest = PAGES - half;
    let expected = runs(&[(0, 1), (rest - 1, 2), (PAGES - 1, 1)]);
    assert_eq!(dirty.runs().collect::<Vec<_>>(), expected);
}

/// Without the file's help all of it is protected, so that there is enough for threads to share.
#[test]
fn threads_find_what_is_written_once() {
    const GIB: u64 = (1 << 30) / PAGE_BYTES as u64;
    let pages = 3 * GIB + 100;
    let file = memfd(pages, MemfdFlags::empty()).unwrap();
    let mapping = Mapping::of_file(&file, pages).unwrap();
    let all = mapping.tracked(0, PageRange::new(0, pages));
    let Some(mut tracker) = support::tracker(vec![all]) else {
        return;
    };
    let threads = std::num::NonZeroUsize::new(3).unwrap();
    tracker.set_scan_threads(threads).unwrap();
    // More runs than a thread hands on at a time, at the ends, and where pieces may meet.
    let near = (0..4).flat_map(|gib| [(gib * GIB).max(1) - 1, gib * GIB]);
    let many = (0..6000).map(|number| number * 127);
    let written: BTreeSet<u64> = near.chain(many).chain([pages - 1]).collect();
    for turn in 1..3 {
        for page in &written {
            mapping.write(*page, turn);
        }
        let found = support::harvest(&mut tracker, pages);
        let found: BTreeSet<u64> = found.iter().flat_map(|run| run.indices()).collect();
        assert!(found == written, "{} of {}", found.len(), written.len());
        assert_eq!(support::harvest(&mut tracker, pages), []);
    }
    // In parts as well, all of it.
    for page in &written {
        mapping.write(*page, 3);
    }
    let (mut rest, mut parts) = (PageBitmap::new(PageCount(pages)), 0);
    let mut told = rest.clone();
    let mut part = |some: &PageBitmap| {
        told.union(some);
        parts += 1;
    };
    tracker.harvest_in_parts(&mut rest, &mut part).unwrap();
    told.union(&rest);
    assert!(parts > 5, "{parts} parts");
    assert_eq!(told.count().0, written.len() as u64);
    assert!(written.iter().all(|page| told.contains(*page)));
}

/// What a guest and its host do to memory.
#[derive(Clone, Copy, Debug)]
enum Act {
    Write(u64),
    Read(u64),
    /// Takes pages out of the page table.
    Zap(u64, u64),
    /// Discards pages.
    Punch(u64, u64),
    Harvest,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    // Few pages of few areas, so that things happen to the same ones.
    let page = (0u64..10, 0u64..6).prop_map(|(area, page)| area * 8 * AREA + page * 85);
    let len = prop_oneof![Just(1), Just(AREA), Just(3 * AREA)];
    let run = (page.clone(), len).prop_map(|(first, len)| (first, len.min(PAGES - first)));
    let act = prop_oneof![
        6 => page.clone().prop_map(Act::Write),
        1 => page.prop_map(Act::Read),
        2 => run.clone().prop_map(|(first, len)| Act::Zap(first, len)),
        2 => run.prop_map(|(first, len)| Act::Punch(first, len)),
        2 => Just(Act::Harvest),
    ];
    prop::collection::vec(act, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A copy that is made of what is reported, as a target's, is the memory in the end.
    #[test]
    fn a_copy_of_what_is_reported_is_the_memory(
        before in prop::collection::vec((0u64..10, 0u64..6), 0..8),
        acts in acts(),
        threads in 1usize..4,
    ) {
        let Some(mut guest) = Guest::discarding(sparse_file()) else {
            return Ok(());
        };
        let threads = std::num::NonZeroUsize::new(threads).unwrap();
        guest.ram.dirty().set_scan_threads(threads).unwrap();
        for (area, page) in before {
            guest.mapping.write(area * 8 * AREA + page * 85, 1);
        }
        let mut copy = vec![0u8; PAGES as usize];
        let memory = Arc::clone(guest.ram.memory());
        let mut take = |pages: &PageBitmap| {
            let mut content = vec![0; PAGE_BYTES];
            for page in pages.runs().flat_map(|run| run.indices()) {
                memory.read(PageRange::new(page, 1), &mut content).unwrap();
                copy[page as usize] = content[2000];
            }
        };
        take(&guest.arm());
        let mut dirty = PageBitmap::new(ALL.count);
        // A discarded page that is read is there again, and nothing shows that it was away.
        let mut discarded = dirty.clone();
        for (number, act) in acts.into_iter().chain([Act::Harvest]).enumerate() {
            match act {
                Act::Write(page) => guest.mapping.write(page, 2 + number as u8),
                Act::Read(page) if discarded.contains(page) => {}
                Act::Read(page) => {
                    guest.mapping.read(page);
                }
                Act::Zap(first, pages) => {
                    let range = PageRange::new(first, pages);
                    guest.mapping.advise(range, Advice::LinuxDontNeed).unwrap();
                }
                Act::Punch(first, pages) => {
                    guest.punch(first, pages);
                    discarded.insert(PageRange::new(first, pages));
                }
                Act::Harvest => {
                    discarded.clear();
                    dirty.clear();
                    guest.ram.dirty().harvest(&mut dirty).unwrap();
                    take(&dirty);
                }
            }
        }
        let mut content = [0; 1];
        for page in 0..PAGES {
            let at = page * PAGE_BYTES as u64 + 2000;
            guest.file.read_exact_at(&mut content, at).unwrap();
            prop_assert_eq!(copy[page as usize], content[0], "page {}", page);
        }
    }
}
