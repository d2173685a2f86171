//! Mappings of every kind of memory a guest may have.

#![allow(
    unsafe_code,
    reason = "these tests map memory and write it behind the engine's back"
)]
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pagelift_engine::dirty::{DirtySource, PagemapTracker, TrackedRange};
use pagelift_engine::memory::{Layout, PageBitmap, ReadPages, Region};
use pagelift_engine::sys::{PagemapScan, Userfaultfd};
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount, PageRange};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Bytes of the huge pages the tests use.
pub(crate) const HUGE_BYTES: usize = 2 << 20;

/// A memfd of `pages` pages, all of it a hole.
pub(crate) fn memfd(pages: u64, flags: MemfdFlags) -> rustix::io::Result<File> {
    let fd = memfd_create("pagelift-test", MemfdFlags::CLOEXEC | flags)?;
    ftruncate(&fd, pages * PAGE_BYTES as u64)?;
    Ok(File::from(fd))
}

/// Memory mapped readable and writable for as long as this lives.
pub(crate) struct Mapping {
    start: *mut c_void,
    pages: u64,
}

// SAFETY: accesses are volatile single-byte operations, and threads that share a mapping write
// pages of their own.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The first `pages` pages of `file`, shared.
    pub(crate) fn of_file(file: &File, pages: u64) -> rustix::io::Result<Self> {
        let len = pages as usize * PAGE_BYTES;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { mmap(null_mut(), len, prot, MapFlags::SHARED, file, 0)? };
        Ok(Self { start, pages })
    }

    /// Anonymous memory.
    pub(crate) fn anonymous(pages: u64) -> Self {
        let len = pages as usize * PAGE_BYTES;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as above.
        let start = unsafe { mmap_anonymous(null_mut(), len, prot, MapFlags::PRIVATE) };
        Self {
            start: start.unwrap(),
            pages,
        }
    }

    pub(crate) fn address(&self) -> u64 {
        self.start as u64
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.cast()
    }

    /// Writes one byte in the middle of page `page`.
    pub(crate) fn write(&self, page: u64, value: u8) {
        assert!(page < self.pages);
        let offset = page as usize * PAGE_BYTES + 2000;
        // SAFETY: within the mapping, which this owns and of which no reference is handed out.
        unsafe { self.start.cast::<u8>().add(offset).write_volatile(value) };
    }

    /// Has the kernel copy the beginning of `file` to a page, as a disk's read does that goes
    /// through the page cache.
    pub(crate) fn read_file(&self, page: u64, file: &File) {
        assert!(page < self.pages);
        let page = self.start().wrapping_add(page as usize * PAGE_BYTES);
        // SAFETY: the page is mapped for writing, and nobody holds a reference to it.
        let buffer = unsafe { std::slice::from_raw_parts_mut(page, PAGE_BYTES) };
        file.read_exact_at(buffer, 0).unwrap();
    }

    /// Reads the byte that `write` writes.
    pub(crate) fn read(&self, page: u64) -> u8 {
        assert!(page < self.pages);
        let offset = page as usize * PAGE_BYTES + 2000;
        // SAFETY: as for `write`.
        unsafe { self.start.cast::<u8>().add(offset).read_volatile() }
    }

    pub(crate) fn advise(&self, range: PageRange, advice: Advice) -> rustix::io::Result<()> {
        assert!(range.end() <= self.pages);
        let offset = range.first.0 as usize * PAGE_BYTES;
        // SAFETY: within the mapping; nothing refers to its content.
        unsafe { madvise(self.start.byte_add(offset), range.len_bytes(), advice) }
    }

    /// Maps other memory in the place of `range`.
    pub(crate) fn replace(&self, range: PageRange) {
        assert!(range.end() <= self.pages);
        let offset = range.first.0 as usize * PAGE_BYTES;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: only memory of this mapping is replaced, and nothing refers to its content.
        unsafe { mmap_anonymous(self.start.byte_add(offset), range.len_bytes(), prot, flags) }
            .unwrap();
    }

    /// Pages of this mapping, from number `offset_pages` on, as the pages `range` of a layout.
    pub(crate) fn tracked(&self, offset_pages: u64, range: PageRange) -> TrackedRange {
        assert!(offset_pages + range.count.0 <= self.pages);
        TrackedRange {
            address: self.address() + offset_pages * PAGE_BYTES as u64,
            range,
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { munmap(self.start, self.pages as usize * PAGE_BYTES) }.unwrap();
    }
}

/// A userfaultfd ready for tracking, or the reason why these tests cannot run here.
pub(crate) fn userfaultfd() -> Option<Userfaultfd> {
    let ready = PagemapScan::probe()
        .and_then(|()| Userfaultfd::open())
        .and_then(|uffd| uffd.enable_async_write_protect().map(|()| uffd));
    ready
        .map_err(|error| eprintln!("SKIP: dirty tracking by page tables: {error}"))
        .ok()
}

/// A tracker of this process's `ranges`, armed.
pub(crate) fn tracker(ranges: Vec<TrackedRange>) -> Option<PagemapTracker> {
    let mut tracker = PagemapTracker::new(None, userfaultfd()?, ranges).unwrap();
    tracker.arm().unwrap();
    Some(tracker)
}

/// The runs that the next harvest reports, of a layout of `pages` pages.
pub(crate) fn harvest(tracker: &mut PagemapTracker, pages: u64) -> Vec<PageRange> {
    let mut dirty = PageBitmap::new(PageCount(pages));
    tracker.harvest(&mut dirty).unwrap();
    dirty.runs().collect()
}

/// Runs as a test writes them: first page and count.
pub(crate) fn runs(list: &[(u64, u64)]) -> Vec<PageRange> {
    list.iter()
        .map(|(first, count)| PageRange::new(*first, *count))
        .collect()
}

/// A layout of regions with `pages` pages each.
pub(crate) fn layout(pages: &[u64]) -> Layout {
    let region = |(number, count): (usize, &u64)| Region {
        name: format!("region{number}"),
        pages: PageCount(*count),
        backing_page: ByteCount(PAGE_BYTES as u64),
    };
    Layout::new(pages.iter().enumerate().map(region).collect()).unwrap()
}

/// Pages filled with one value each.
pub(crate) fn pages(values: &[u8]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| [*value; PAGE_BYTES])
        .collect()
}

/// The content of `count` pages from number `first` on.
pub(crate) fn read(memory: &impl ReadPages, first: u64, count: u64) -> Vec<u8> {
    let range = PageRange::new(first, count);
    let mut out = vec![0xee; range.len_bytes()];
    memory.read(range, &mut out).unwrap();
    out
}

/// The runs of pages that may hold something.
pub(crate) fn populated(memory: &impl ReadPages) -> Vec<PageRange> {
    let mut set = PageBitmap::new(memory.layout().pages());
    memory.populated(&mut set).unwrap();
    set.runs().collect()
}

/// Huge pages that a test may use: raised for its time, put back when dropped.
///
/// One test at a time: the others wait.
pub(crate) struct HugePages {
    before: String,
    _turn: MutexGuard<'static, ()>,
}

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    /// Makes sure that `count` huge pages of 2 MiB are free.
    pub(crate) fn reserve(count: usize) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::fs::read_to_string(NR_HUGEPAGES).ok()?;
        let had: usize = before.trim().parse().ok()?;
        let pool = Self {
            before,
            _turn: turn,
        };
        // Not an error for the kernel when it finds fewer: look at what is free afterwards.
        let raised = std::fs::write(NR_HUGEPAGES, (had + count).to_string());
        let free = std::fs::read_to_string("/proc/meminfo")
            .ok()?
            .lines()
            .find_map(|line| {
                line.strip_prefix("HugePages_Free:")?
                    .trim()
                    .parse::<usize>()
                    .ok()
            })?;
        if raised.is_err() || free < count {
            eprintln!("SKIP: {count} huge pages cannot be reserved ({free} are free)");
            return None;
        }
        Some(pool)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(NR_HUGEPAGES, &self.before);
    }
}
