//! Memory that was swapped out is there: it is found, tracked, read and sent.

#![allow(
    unsafe_code,
    reason = "mapped memory is given to the engine by its address"
)]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;
use std::sync::Arc;

use pagelift_engine::guest::{self, SourceGuest, TargetGuest};
use pagelift_engine::memory::{FileMemory, GuestMemory, PageBitmap, RegionFile};
use pagelift_engine::units::{PAGE_BYTES, PageCount, PageIndex, PageRange};
use pagelift_engine::{GuestRam, Incoming, Outgoing};
use pagelift_transports::Endpoint;
use rustix::fs::MemfdFlags;
use rustix::mm::Advice;
use support::{Mapping, layout, memfd, runs};
use tempfile::TempDir;

const PAGES: u64 = 600;
/// Pages that hold something; the others were never written.
const WRITTEN: PageRange = PageRange {
    first: PageIndex(100),
    count: PageCount(400),
};
const SWAP_BYTES: usize = 16 << 20;

/// A file that the kernel swaps to, for the time of a test.
struct Swap(TempDir);

impl Swap {
    fn on() -> Option<Self> {
        // Not where the tests' other files may be: the kernel does not swap to a tmpfs.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("swap");
        let mut file = File::create(&path).unwrap();
        let mode = std::fs::Permissions::from_mode(0o600);
        file.set_permissions(mode).unwrap();
        // No holes: the kernel refuses such files.
        file.write_all(&vec![0; SWAP_BYTES]).unwrap();
        file.sync_all().unwrap();
        for (program, arguments) in [("mkswap", &["-q"][..]), ("swapon", &[])] {
            let output = Command::new(program).args(arguments).arg(&path).output();
            let done = output.as_ref().is_ok_and(|output| output.status.success());
            if !done {
                eprintln!("SKIP: no swap: {program}: {output:?}");
                return None;
            }
        }
        Some(Self(folder))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let status = Command::new("swapoff")
            .arg(self.0.path().join("swap"))
            .status();
        assert!(status.is_ok_and(|status| status.success()), "swapoff");
    }
}

/// Bits of the kernel's page map; Documentation/admin-guide/mm/pagemap.rst.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;

/// For how many pages of `mapping` the page map has `bit`.
fn entries_with(mapping: &Mapping, bit: u64) -> u64 {
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    let mut entries = vec![0; PAGES as usize * 8];
    let first = mapping.address() / PAGE_BYTES as u64;
    pagemap.read_exact_at(&mut entries, first * 8).unwrap();
    let entries = entries.chunks_exact(8);
    let has = |entry: &&[u8]| u64::from_le_bytes((*entry).try_into().unwrap()) & bit != 0;
    entries.filter(has).count() as u64
}

/// Has the kernel swap the written pages out; whether it did so with most of them.
fn swap_out(mapping: &Mapping) -> bool {
    for _ in 0..50 {
        mapping.advise(WRITTEN, Advice::LinuxPageOut).unwrap();
        if entries_with(mapping, SWAPPED) > WRITTEN.count.0 / 2 {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let swapped = entries_with(mapping, SWAPPED);
    eprintln!("SKIP: the kernel swaps {swapped} pages out");
    false
}

/// What page `page` holds: words that differ.
fn content(page: u64) -> Vec<u8> {
    let words = (0..PAGE_BYTES as u64 / 8).map(|at| at * 0x9e37_79b9 + page);
    words.flat_map(u64::to_le_bytes).collect()
}

struct Half;

impl SourceGuest for Half {
    fn pause(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn save_devices(&mut self, _: &mut dyn Write) -> guest::Result<()> {
        Ok(())
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        Ok(())
    }
}

impl TargetGuest for Half {
    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        assert_eq!(state.read_to_end(&mut Vec::new())?, 0);
        Ok(())
    }

    fn run(&mut self) -> guest::Result<()> {
        Ok(())
    }
}

/// Memory of which the written pages hold something.
fn ram(mapping: &Mapping) -> GuestRam {
    // Of huge pages all would be there.
    let all = PageRange::new(0, PAGES);
    mapping.advise(all, Advice::LinuxNoHugepage).unwrap();
    // SAFETY: the mapping is anonymous and outlives the memory in both tests; it is otherwise
    // accessed with volatile single-byte operations.
    let ram = unsafe { GuestRam::mapped(layout(&[PAGES]), vec![mapping.start()]) }.unwrap();
    for page in WRITTEN.indices() {
        ram.memory().write(PageIndex(page), &content(page)).unwrap();
    }
    ram
}

fn harvest(ram: &mut GuestRam) -> Vec<PageRange> {
    let mut dirty = PageBitmap::new(PageCount(PAGES));
    ram.dirty().harvest(&mut dirty).unwrap();
    dirty.runs().collect()
}

#[test]
fn pages_that_were_swapped_out_are_tracked_read_and_sent() {
    if support::userfaultfd().is_none() {
        return;
    }
    let Some(_swap) = Swap::on() else { return };
    let mapping = Mapping::anonymous(PAGES);
    let mut ram = ram(&mapping);
    if !swap_out(&mapping) {
        return;
    }
    let mut populated = PageBitmap::new(PageCount(PAGES));
    ram.memory().populated(&mut populated).unwrap();
    assert_eq!(populated.runs().collect::<Vec<_>>(), [WRITTEN]);

    // Armed while they are out, and written then; and the other way round.
    ram.dirty().arm().unwrap();
    assert_eq!(harvest(&mut ram), []);
    mapping.write(150, 1);
    assert_eq!(harvest(&mut ram), runs(&[(150, 1)]));
    mapping.write(200, 2);
    mapping.write(50, 3);
    if !swap_out(&mapping) {
        return;
    }
    assert_eq!(harvest(&mut ram), runs(&[(50, 1), (200, 1)]));
    if !swap_out(&mapping) {
        return;
    }
    assert_eq!(harvest(&mut ram), [], "swapping is not writing");
    populated.clear();
    ram.memory().populated(&mut populated).unwrap();
    let expected = [PageRange::new(50, 1), WRITTEN];
    assert_eq!(populated.runs().collect::<Vec<_>>(), expected);
    ram.dirty().disarm();

    let file = memfd(PAGES, MemfdFlags::empty()).unwrap();
    let files = vec![RegionFile { file, offset: 0 }];
    let arrived = Arc::new(FileMemory::new(layout(&[PAGES]), files).unwrap());
    let regions = Arc::clone(&arrived) as Arc<dyn GuestMemory>;
    let listener = "tcp://127.0.0.1:0".parse::<Endpoint>().unwrap();
    let incoming = Incoming::new(listener.listen().unwrap(), regions, Half);
    let link = incoming.address().parse::<Endpoint>().unwrap();
    let target = incoming.start().unwrap();
    let outgoing = Outgoing::new(link.connect().unwrap(), ram, Half);
    let report = outgoing.start().unwrap().wait().result;
    target.wait().result.unwrap();
    let report = report.unwrap();
    assert_eq!(report.pages.sent(), PageCount(WRITTEN.count.0 + 1));
    for page in 0..PAGES {
        let mut expected = vec![0; PAGE_BYTES];
        if WRITTEN.indices().contains(&page) {
            expected = content(page);
        }
        match page {
            150 => expected[2000] = 1,
            200 => expected[2000] = 2,
            50 => expected[2000] = 3,
            _ => {}
        }
        assert!(support::read(&*arrived, page, 1) == expected, "page {page}");
    }
}

/// A file is protected only where it holds data; what was swapped out counts.
#[test]
fn pages_of_a_file_that_were_swapped_out_are_tracked() {
    if support::userfaultfd().is_none() {
        return;
    }
    let Some(_swap) = Swap::on() else { return };
    let file = memfd(PAGES, MemfdFlags::empty()).unwrap();
    let mapping = Mapping::of_file(&file, PAGES).unwrap();
    let mut ram = GuestRam::from_file(file, mapping.start()).unwrap();
    // All of it is written and reclaimed before anybody looks.
    ram.dirty().arm().unwrap();
    let write = |value| {
        for page in WRITTEN.indices() {
            mapping.write(page, value);
        }
    };
    write(1);
    if !reclaimed(&mapping) {
        return;
    }
    assert_eq!(harvest(&mut ram), [WRITTEN]);
    assert_eq!(harvest(&mut ram), []);
    // And where it is protected by now, or was when it was reclaimed.
    write(2);
    if !reclaimed(&mapping) {
        return;
    }
    assert_eq!(harvest(&mut ram), [WRITTEN]);
    ram.dirty().disarm();
    ram.dirty().arm().unwrap();
    assert_eq!(harvest(&mut ram), [], "armed while they are out");
    write(3);
    assert_eq!(harvest(&mut ram), [WRITTEN]);
}

/// Has the kernel take the written pages of a file out of memory; whether it did so with most.
fn reclaimed(mapping: &Mapping) -> bool {
    for _ in 0..50 {
        mapping.advise(WRITTEN, Advice::LinuxPageOut).unwrap();
        // Its page table then has nothing; where the page is the file knows.
        if entries_with(mapping, PRESENT) < WRITTEN.count.0 / 2 {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    eprintln!("SKIP: the kernel does not swap pages of files out");
    false
}
