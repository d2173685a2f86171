//! Guest memory in real files: what is read, what is placed, what stays a hole.

#![allow(
    unsafe_code,
    reason = "mapped memory is given to the engine by its address"
)]

mod support;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use pagelift_engine::memory::{
    FileMemory, GuestMemory, InFiles, MemoryError, ReadPages, RegionFile,
};
use pagelift_engine::units::{PAGE_BYTES, PageIndex, PageRange};
use rustix::fs::MemfdFlags;
use support::{HUGE_BYTES, HugePages, layout, memfd, pages, populated, read, runs};

const PER_HUGE: u64 = (HUGE_BYTES / PAGE_BYTES) as u64;

/// One region at the start of `file`.
fn whole(file: &File, pages: u64) -> FileMemory {
    let place = RegionFile {
        file: file.try_clone().unwrap(),
        offset: 0,
    };
    FileMemory::new(layout(&[pages]), vec![place]).unwrap()
}

/// Pages that `file` takes in memory.
fn taken(file: &File) -> u64 {
    file.metadata().unwrap().blocks() * 512 / PAGE_BYTES as u64
}

#[test]
fn regions_in_files_at_offsets_make_one_memory() {
    let (low, high) = (
        memfd(10, MemfdFlags::empty()).unwrap(),
        tempfile::tempfile().unwrap(),
    );
    high.set_len(4 * PAGE_BYTES as u64).unwrap();
    let place = |file: &File, page: u64| RegionFile {
        file: file.try_clone().unwrap(),
        offset: page * PAGE_BYTES as u64,
    };
    let files = vec![place(&low, 6), place(&high, 0), place(&low, 1)];
    let memory = FileMemory::new(layout(&[4, 4, 3]), files).unwrap();
    let data = pages(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    memory.write(PageIndex(1), &data).unwrap();
    assert_eq!(
        read(&memory, 0, 11),
        pages(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    );
    assert_eq!(read(&memory, 3, 3), pages(&[3, 4, 5]));
    let mut byte = [0];
    low.read_exact_at(&mut byte, 7 * PAGE_BYTES as u64).unwrap();
    assert_eq!(
        byte,
        [1],
        "page 1 is the second of region 0, which starts at page 6 of the file"
    );
    memory.write_zeros(PageRange::new(2, 7)).unwrap();
    assert_eq!(
        read(&memory, 0, 11),
        pages(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0])
    );
}

#[test]
fn holes_are_read_as_zeros_and_stay_holes() {
    const PAGES: u64 = 600;
    let file = memfd(PAGES, MemfdFlags::empty()).unwrap();
    let memory = whole(&file, PAGES);
    assert_eq!(populated(&memory), []);
    assert_eq!(
        read(&memory, 0, PAGES),
        vec![0; PAGES as usize * PAGE_BYTES]
    );
    memory.write_zeros(PageRange::new(0, PAGES)).unwrap();
    assert_eq!(taken(&file), 0, "neither reading nor zeroing populates");
    memory.write(PageIndex(0), &pages(&[1])).unwrap();
    memory.write(PageIndex(300), &pages(&[2, 0, 3])).unwrap();
    memory.write(PageIndex(PAGES - 1), &pages(&[4])).unwrap();
    let expected = runs(&[(0, 1), (300, 3), (PAGES - 1, 1)]);
    assert_eq!(
        populated(&memory),
        expected,
        "page 301 is zero, but was written"
    );
    memory.write_zeros(PageRange::new(200, 102)).unwrap();
    assert_eq!(
        populated(&memory),
        runs(&[(0, 1), (302, 1), (PAGES - 1, 1)])
    );
    assert_eq!(read(&memory, 299, 4), pages(&[0, 0, 0, 3]));
    assert_eq!(file.metadata().unwrap().len(), PAGES * PAGE_BYTES as u64);
}

#[test]
fn populated_pages_of_a_region_inside_a_file_are_numbered_from_the_region() {
    let file = memfd(20, MemfdFlags::empty()).unwrap();
    file.write_all_at(&pages(&[1, 1]), 4 * PAGE_BYTES as u64)
        .unwrap();
    file.write_all_at(&pages(&[1, 1]), 9 * PAGE_BYTES as u64)
        .unwrap();
    let place = |page: u64| RegionFile {
        file: file.try_clone().unwrap(),
        offset: page * PAGE_BYTES as u64,
    };
    let memory = FileMemory::new(layout(&[5, 5]), vec![place(10), place(5)]).unwrap();
    assert_eq!(populated(&memory), runs(&[(0, 1), (5, 1), (9, 1)]));
}

#[test]
fn what_is_outside_or_cut_off_is_an_error_and_no_signal() {
    let file = memfd(8, MemfdFlags::empty()).unwrap();
    let memory = whole(&file, 8);
    let mut out = vec![0; 2 * PAGE_BYTES];
    let error = memory.read(PageRange::new(7, 2), &mut out).unwrap_err();
    assert!(
        matches!(
            error,
            MemoryError::OutOfRange {
                first: 7,
                end: 9,
                pages: 8
            }
        ),
        "{error}"
    );
    assert!(memory.write(PageIndex(7), &out).is_err());
    assert!(memory.write(PageIndex(u64::MAX), &out).is_err());
    assert!(memory.write_zeros(PageRange::new(8, 1)).is_err());
    file.set_len(PAGE_BYTES as u64).unwrap();
    let error = memory
        .read(PageRange::new(1, 2), &mut out)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot read region0 at byte 4096"),
        "{error}"
    );
    let place = RegionFile { file, offset: 0 };
    let error = FileMemory::new(layout(&[8]), vec![place])
        .unwrap_err()
        .to_string();
    assert!(error.contains("4096 bytes"), "{error}");
}

/// A tmpfs that is unmounted at the end.
struct SmallTmpfs(PathBuf);

impl SmallTmpfs {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "pagelift-test"])
            .arg(at)
            .status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("SKIP: a small tmpfs cannot be mounted here");
            return None;
        }
        Some(Self(at.to_owned()))
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_file_system_is_an_error_and_no_signal() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mount) = SmallTmpfs::mount(directory.path(), "64k") else {
        return;
    };
    let file = File::create_new(mount.0.join("ram")).unwrap();
    file.set_len(64 * PAGE_BYTES as u64).unwrap();
    let memory = whole(&file, 64);
    let error = memory.write(PageIndex(8), &pages(&[1; 40])).unwrap_err();
    let MemoryError::Io { region, source, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(
        (region.as_str(), source.kind()),
        ("region0", std::io::ErrorKind::StorageFull)
    );
    let mark = memory.place_mark(0, 77).err().unwrap();
    assert!(matches!(mark, MemoryError::Io { action: "mark", .. }));
    drop((memory, file));
}

#[test]
fn huge_pages_are_written_through_a_mapping_and_shortage_is_an_error() {
    let Some(_pool) = HugePages::reserve(2) else {
        return;
    };
    let count = 4 * PER_HUGE;
    let file = memfd(count, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB).unwrap();
    let memory = whole(&file, count);
    assert_eq!(
        populated(&memory),
        runs(&[(0, count)]),
        "hugetlbfs cannot tell"
    );
    assert_eq!(read(&memory, 0, 3), pages(&[0, 0, 0]));
    memory.write_zeros(PageRange::new(0, count)).unwrap();
    assert_eq!(taken(&file), 0, "neither reading nor zeroing populates");
    memory
        .write(PageIndex(PER_HUGE - 1), &pages(&[1, 2, 3]))
        .unwrap();
    assert_eq!(taken(&file), 2 * PER_HUGE);
    assert_eq!(read(&memory, PER_HUGE - 2, 5), pages(&[0, 1, 2, 3, 0]));
    memory.write_zeros(PageRange::new(PER_HUGE, 1)).unwrap();
    assert_eq!(
        read(&memory, PER_HUGE - 2, 5),
        pages(&[0, 1, 0, 3, 0]),
        "neighbours stay"
    );
    let error = memory
        .write(PageIndex(3 * PER_HUGE), &pages(&[5]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("raise vm.nr_hugepages"), "{error}");
    assert_eq!(read(&memory, PER_HUGE - 1, 1), pages(&[1]));
}
