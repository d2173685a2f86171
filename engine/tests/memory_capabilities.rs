//! What memories can do beyond being read and written: placing absent pages, giving pages back,
//! and addresses in this process.

#![allow(
    unsafe_code,
    reason = "mapped memory is given to the engine by its address"
)]

mod support;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pagelift_engine::memory::{FileMemory, GuestMemory, MappedMemory, RegionFile, SharedMemory};
use pagelift_engine::units::{PAGE_BYTES, PageCount, PageIndex, PageRange};
use rustix::fs::MemfdFlags;
use rustix::mm::Advice;
use support::{HUGE_BYTES, HugePages, Mapping, layout, memfd, pages, populated, read, runs};

const PER_HUGE: u64 = (HUGE_BYTES / PAGE_BYTES) as u64;

/// One region in `file`.
fn file_memory(file: &File, pages: u64) -> FileMemory {
    let file = file.try_clone().unwrap();
    FileMemory::new(layout(&[pages]), vec![RegionFile { file, offset: 0 }]).unwrap()
}

/// One region in anonymous memory.
fn private_memory(mapping: &Mapping, pages: u64) -> MappedMemory {
    // SAFETY: the mapping is anonymous and outlives the memory; it is otherwise accessed with
    // volatile single-byte operations.
    unsafe { MappedMemory::new(layout(&[pages]), vec![mapping.start()]) }
}

fn taken(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512 / PAGE_BYTES as u64
}

#[test]
fn what_a_memory_cannot_do_is_known_beforehand() {
    let mapping = Mapping::anonymous(4);
    let private = private_memory(&mapping, 4);
    assert!(private.map_pages().is_some());
    assert!(private.discard_pages().is_some());
    assert!(private.place_absent().is_none(), "it has no userfaultfd");
    let shm = memfd(4, MemfdFlags::empty()).unwrap();
    let memory = file_memory(&shm, 4);
    assert!(memory.map_pages().is_none());
    assert!(memory.place_absent().is_some());
    assert!(memory.discard_pages().is_some());
    let shared = SharedMemory::map(memory).unwrap();
    assert!(shared.map_pages().is_some());
    assert!(shared.place_absent().is_some());
    assert!(shared.discard_pages().is_some());
    let read_only = File::open(format!("/proc/self/fd/{}", shm.as_raw_fd()));
    let error = SharedMemory::map(file_memory(&read_only.unwrap(), 4)).unwrap_err();
    assert!(error.to_string().contains("cannot map region0"), "{error}");
    // A file system that does not say exactly what is there.
    let Some(_pool) = HugePages::reserve(1) else {
        return;
    };
    let huge = memfd(PER_HUGE, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB).unwrap();
    assert!(file_memory(&huge, PER_HUGE).place_absent().is_none());
}

/// Places into a memory of 10 pages whose pages 3 and 7 are there, and looks at the outcome.
fn place_around(memory: &dyn GuestMemory) {
    let absent = memory.place_absent().unwrap();
    memory.write(PageIndex(3), &pages(&[0x33])).unwrap();
    memory.write(PageIndex(7), &pages(&[0])).unwrap();
    let placed = absent.place(PageIndex(1), &pages(&[1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(placed.unwrap(), PageCount(6));
    let mut content = vec![0; 10 * PAGE_BYTES];
    memory.read(PageRange::new(0, 10), &mut content).unwrap();
    assert_eq!(content, pages(&[0, 1, 2, 0x33, 4, 5, 6, 0, 8, 0]));
    let placed = absent.place(PageIndex(1), &pages(&[9; 8])).unwrap();
    assert_eq!(placed, PageCount(0));
    let discard = memory.discard_pages().unwrap();
    discard.discard(PageRange::new(3, 2)).unwrap();
    let placed = absent.place(PageIndex(2), &pages(&[9; 4])).unwrap();
    assert_eq!(placed, PageCount(2), "a discarded page is absent again");
    memory.read(PageRange::new(0, 10), &mut content).unwrap();
    assert_eq!(content, pages(&[0, 1, 2, 9, 9, 5, 6, 0, 8, 0]));
    assert!(absent.place(PageIndex(9), &pages(&[1, 1])).is_err());
    assert!(discard.discard(PageRange::new(9, 2)).is_err());
}

#[test]
fn a_page_is_placed_only_where_none_is() {
    let file = memfd(20, MemfdFlags::empty()).unwrap();
    // At an offset, with pages of others around it, and over two regions.
    let place = |page: u64| RegionFile {
        file: file.try_clone().unwrap(),
        offset: page * PAGE_BYTES as u64,
    };
    let others = file_memory(&file, 20);
    others.write(PageIndex(0), &pages(&[0xee; 20])).unwrap();
    let used = PageRange::new(5, 10);
    others.discard_pages().unwrap().discard(used).unwrap();
    let files = vec![place(5), place(9)];
    place_around(&FileMemory::new(layout(&[4, 6]), files).unwrap());
    assert_eq!(read(&others, 0, 5), pages(&[0xee; 5]));
    assert_eq!(read(&others, 15, 5), pages(&[0xee; 5]));

    let Some(uffd) = support::userfaultfd() else {
        return;
    };
    let mapping = Mapping::anonymous(10);
    place_around(&private_memory(&mapping, 10).with_userfaultfd(uffd).unwrap());
}

/// Threads place all pages, each its own content, while a guest writes every fifth of them, which
/// are there: what the guest wrote stays, and each other page comes from one thread, once.
fn race(memory: &dyn GuestMemory, guest: &Mapping) {
    const PAGES: u64 = 2000;
    let absent = memory.place_absent().unwrap();
    let placed = AtomicU64::new(0);
    let write = |value| {
        for page in (0..PAGES).step_by(5) {
            guest.write(page, value);
        }
    };
    write(0x70);
    thread::scope(|scope| {
        for value in 1..=3_u8 {
            let placed = &placed;
            scope.spawn(move || {
                for first in (0..PAGES).step_by(8) {
                    // Each begins elsewhere.
                    let first = (first + u64::from(value) * 656) % PAGES;
                    let pages = absent.place(PageIndex(first), &pages(&[value; 8]));
                    placed.fetch_add(pages.unwrap().0, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| (0x71..=0x77).for_each(write));
    });
    let mut content = vec![0; PAGES as usize * PAGE_BYTES];
    let all = PageRange::new(0, PAGES);
    memory.read(all, &mut content).unwrap();
    for (number, page) in content.chunks(PAGE_BYTES).enumerate() {
        let mut expected = [0; PAGE_BYTES];
        if number % 5 == 0 {
            expected[2000] = 0x77;
        } else {
            expected = [page[0].clamp(1, 3); PAGE_BYTES];
        }
        assert!(page == expected, "page {number} begins with {}", page[0]);
    }
    assert_eq!(placed.into_inner(), PAGES / 5 * 4);
}

#[test]
fn of_those_that_place_a_page_at_once_one_does() {
    let file = memfd(2000, MemfdFlags::empty()).unwrap();
    let guest = Mapping::of_file(&file, 2000).unwrap();
    race(&file_memory(&file, 2000), &guest);

    let Some(uffd) = support::userfaultfd() else {
        return;
    };
    let guest = Mapping::anonymous(2000);
    guest
        .advise(PageRange::new(0, 2000), Advice::LinuxNoHugepage)
        .unwrap();
    let memory = private_memory(&guest, 2000).with_userfaultfd(uffd).unwrap();
    race(&memory, &guest);
}

#[test]
fn a_discarded_page_takes_no_memory_and_reads_as_zeros() {
    let file = memfd(100, MemfdFlags::empty()).unwrap();
    let memory = file_memory(&file, 100);
    memory.write(PageIndex(10), &pages(&[1; 20])).unwrap();
    let discard = memory.discard_pages().unwrap();
    discard.discard(PageRange::new(15, 50)).unwrap();
    assert_eq!(taken(&file), 5);
    assert_eq!(populated(&memory), runs(&[(10, 5)]));
    assert_eq!(read(&memory, 14, 2), pages(&[1, 0]));

    let mapping = Mapping::anonymous(100);
    let memory = private_memory(&mapping, 100);
    memory.write(PageIndex(10), &pages(&[1; 20])).unwrap();
    let discard = memory.discard_pages().unwrap();
    discard.discard(PageRange::new(15, 50)).unwrap();
    assert_eq!(populated(&memory), runs(&[(10, 5)]));
    assert_eq!(read(&memory, 14, 2), pages(&[1, 0]));
}

#[test]
fn a_huge_page_that_was_discarded_is_given_back_and_can_be_written_again() {
    let Some(_pool) = HugePages::reserve(2) else {
        return;
    };
    let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = memfd(4 * PER_HUGE, flags).unwrap();
    let memory = file_memory(&file, 4 * PER_HUGE);
    let discard = memory.discard_pages().unwrap();
    for first in [0, PER_HUGE] {
        memory.write(PageIndex(first), &pages(&[1, 2])).unwrap();
    }
    assert_eq!(taken(&file), 2 * PER_HUGE);
    // A part of a huge page is only zeroed.
    discard.discard(PageRange::new(1, 1)).unwrap();
    assert_eq!(taken(&file), 2 * PER_HUGE);
    assert_eq!(read(&memory, 0, 2), pages(&[1, 0]));
    discard.discard(PageRange::new(0, PER_HUGE)).unwrap();
    assert_eq!(taken(&file), PER_HUGE);
    memory.write(PageIndex(3 * PER_HUGE), &pages(&[3])).unwrap();
    let error = memory.write(PageIndex(0), &pages(&[4])).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("raise vm.nr_hugepages"), "{error}");
    discard.discard(PageRange::new(PER_HUGE, PER_HUGE)).unwrap();
    memory.write(PageIndex(0), &pages(&[4])).unwrap();
    assert_eq!(read(&memory, 0, 2), pages(&[4, 0]));
}

#[test]
fn a_shared_mapping_is_the_file_and_reading_populates_nothing() {
    let (low, high) = (
        memfd(10, MemfdFlags::empty()).unwrap(),
        memfd(20, MemfdFlags::empty()).unwrap(),
    );
    let place = |file: &File, page: u64| RegionFile {
        file: file.try_clone().unwrap(),
        offset: page * PAGE_BYTES as u64,
    };
    let files = vec![place(&low, 0), place(&high, 5)];
    let memory = SharedMemory::map(FileMemory::new(layout(&[10, 15]), files).unwrap()).unwrap();
    assert_eq!(read(&memory, 0, 25), vec![0; 25 * PAGE_BYTES]);
    assert_eq!(populated(&memory), []);
    let mapped = memory.map_pages().unwrap();
    let second = mapped.region_start(1).wrapping_add(3 * PAGE_BYTES);
    // SAFETY: page 3 of the second region is mapped, and nobody else uses it.
    unsafe { second.write_volatile(7) };
    assert_eq!(populated(&memory), runs(&[(13, 1)]));
    assert_eq!(read(&memory, 13, 1)[0], 7);
    memory.write(PageIndex(9), &pages(&[1, 2])).unwrap();
    // SAFETY: as above, of both regions.
    let written = unsafe {
        let first = mapped.region_start(0).add(9 * PAGE_BYTES).read_volatile();
        (first, mapped.region_start(1).read_volatile())
    };
    assert_eq!(written, (1, 2));
    assert_eq!((taken(&low), taken(&high)), (1, 2));
}
