//! A guest's RAM, put together: its tracker reports the pages that its memory reads.

#![allow(
    unsafe_code,
    reason = "mapped memory is given to the engine by its address"
)]

mod support;

use std::sync::Arc;

use pagelift_engine::memory::{FileMemory, MapPages, PageBitmap, RegionFile, SharedMemory};
use pagelift_engine::ram::GuestRam;
use pagelift_engine::units::{PAGE_BYTES, PageRange};
use rustix::fs::MemfdFlags;
use support::{Mapping, layout, memfd, runs};

/// What is reported as written, and the byte that each of these pages has in its middle.
fn harvest(ram: &mut GuestRam) -> (Vec<PageRange>, Vec<u8>) {
    let mut dirty = PageBitmap::new(ram.layout().pages());
    ram.dirty().harvest(&mut dirty).unwrap();
    let runs: Vec<_> = dirty.runs().collect();
    let mut page = vec![0; PAGE_BYTES];
    let mut bytes = Vec::new();
    for index in runs.iter().flat_map(|run| run.indices()) {
        let range = PageRange::new(index, 1);
        ram.memory().read(range, &mut page).unwrap();
        bytes.push(page[2000]);
    }
    (runs, bytes)
}

#[test]
fn the_pages_of_a_whole_file_are_those_that_are_written_through_its_mapping() {
    let file = memfd(40, MemfdFlags::empty()).unwrap();
    let mapping = Mapping::of_file(&file, 40).unwrap();
    if support::userfaultfd().is_none() {
        return;
    }
    let mut ram = GuestRam::from_file(file, mapping.start()).unwrap();
    assert_eq!(ram.layout().regions()[0].name, "ram");
    ram.dirty().arm().unwrap();
    mapping.write(7, 1);
    mapping.write(39, 2);
    assert_eq!(harvest(&mut ram), (runs(&[(7, 1), (39, 1)]), vec![1, 2]));
}

#[test]
fn regions_are_tracked_where_each_is_mapped() {
    let (low, high) = (
        memfd(10, MemfdFlags::empty()).unwrap(),
        memfd(20, MemfdFlags::empty()).unwrap(),
    );
    let (at_low, at_high) = (
        Mapping::of_file(&low, 10).unwrap(),
        Mapping::of_file(&high, 20).unwrap(),
    );
    if support::userfaultfd().is_none() {
        return;
    }
    let file = |file, page: u64| RegionFile {
        file,
        offset: page * PAGE_BYTES as u64,
    };
    // The second region is from page 5 of its file on, and mapped as such.
    let files = vec![file(low, 0), file(high, 5)];
    let memory = FileMemory::new(layout(&[10, 15]), files).unwrap();
    let second = at_high.start().wrapping_add(5 * PAGE_BYTES);
    let mut ram = GuestRam::from_files(memory, &[at_low.start(), second]).unwrap();
    ram.dirty().arm().unwrap();
    at_low.write(9, 1);
    at_high.write(4, 2);
    at_high.write(5, 3);
    at_high.write(19, 4);
    assert_eq!(harvest(&mut ram), (runs(&[(9, 2), (24, 1)]), vec![1, 3, 4]));
}

#[test]
fn shared_memory_is_tracked_where_it_has_mapped_itself() {
    if support::userfaultfd().is_none() {
        return;
    }
    let file = memfd(30, MemfdFlags::empty()).unwrap();
    let place = |page: u64| RegionFile {
        file: file.try_clone().unwrap(),
        offset: page * PAGE_BYTES as u64,
    };
    let files = FileMemory::new(layout(&[10, 15]), vec![place(0), place(12)]).unwrap();
    let memory = Arc::new(SharedMemory::map(files).unwrap());
    let mut ram = GuestRam::shared(Arc::clone(&memory)).unwrap();
    ram.dirty().arm().unwrap();
    for (region, page, value) in [(0, 9, 1), (1, 0, 2), (1, 14, 3)] {
        let byte = memory.region_start(region);
        let byte = byte.wrapping_add(page * PAGE_BYTES + 2000);
        // SAFETY: within the region, and nobody else uses the memory.
        unsafe { byte.write_volatile(value) };
    }
    assert_eq!(harvest(&mut ram), (runs(&[(9, 2), (24, 1)]), vec![1, 2, 3]));
}

#[test]
fn private_memory_is_read_and_tracked_where_it_is() {
    let mapping = Mapping::anonymous(30);
    if support::userfaultfd().is_none() {
        return;
    }
    let second = mapping.start().wrapping_add(10 * PAGE_BYTES);
    // SAFETY: the mapping is anonymous and outlives the memory; it is otherwise accessed with
    // volatile single-byte operations on the same thread only.
    let ram = unsafe { GuestRam::mapped(layout(&[5, 20]), vec![mapping.start(), second]) };
    let mut ram = ram.unwrap();
    ram.dirty().arm().unwrap();
    mapping.write(4, 1);
    mapping.write(5, 2);
    mapping.write(10, 3);
    mapping.write(29, 4);
    assert_eq!(harvest(&mut ram), (runs(&[(4, 2), (24, 1)]), vec![1, 3, 4]));
}

#[test]
fn a_file_of_no_whole_pages_is_refused() {
    for bytes in [0, 100, PAGE_BYTES as u64 + 1] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        let error = FileMemory::whole(file).unwrap_err().to_string();
        assert!(error.contains("ram"), "{error}");
    }
}
