//! Pinning memory, and the limit on it.
//!
//! The limit belongs to a process, and root is not bound by it: so the second test runs this program
//! once more, as a process that gives up the privilege and lowers its limit.

#![allow(
    unsafe_code,
    reason = "mapped memory is given to the engine by its address"
)]

mod support;

use std::process::Command;

use pagelift_engine::memory::{FileMemory, GuestMemory, MappedMemory, RegionFile, SharedMemory};
use pagelift_engine::units::PageRange;
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use support::{Mapping, layout, memfd, populated, runs};

const ROLE: &str = "PAGELIFT_TEST_MEMLOCK";

/// Pages that this process has locked.
fn locked() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse::<u64>().unwrap() / 4
}

fn private(mapping: &Mapping) -> MappedMemory {
    // SAFETY: the mapping is anonymous and outlives the memory; nothing else uses it.
    unsafe { MappedMemory::new(layout(&[20]), vec![mapping.start()]) }
}

#[test]
fn what_is_pinned_is_populated_and_locked() {
    if std::env::var_os(ROLE).is_some() {
        return;
    }
    let file = memfd(20, MemfdFlags::empty()).unwrap();
    let place = RegionFile { file, offset: 0 };
    let shared = FileMemory::new(layout(&[20]), vec![place]).unwrap();
    let shared = SharedMemory::map(shared).unwrap();
    let mapping = Mapping::anonymous(20);
    let private = private(&mapping);
    let before = locked();
    for memory in [&shared as &dyn GuestMemory, &private] {
        let mapped = memory.map_pages().unwrap();
        mapped.pin(PageRange::new(3, 10)).unwrap();
        assert_eq!(locked(), before + 10);
        // Once more is not twice.
        mapped.pin(PageRange::new(5, 10)).unwrap();
        assert_eq!(locked(), before + 12);
        mapped.unpin(PageRange::new(3, 12)).unwrap();
        assert_eq!(locked(), before);
        assert!(mapped.pin(PageRange::new(15, 6)).is_err());
    }
    assert_eq!(populated(&shared), runs(&[(3, 12)]));
    assert_eq!(populated(&private), runs(&[(3, 12)]));

    private
        .map_pages()
        .unwrap()
        .pin(PageRange::new(0, 20))
        .unwrap();
    let discard = private
        .discard_pages()
        .unwrap()
        .discard(PageRange::new(0, 1));
    let error = discard.unwrap_err().to_string();
    assert!(error.starts_with("cannot discard region0"), "{error}");
}

#[test]
fn the_limit_is_named_with_what_raises_it() {
    if std::env::var_os(ROLE).is_none() {
        let mut own = Command::new(std::env::current_exe().unwrap());
        own.args(["--exact", "the_limit_is_named_with_what_raises_it"]);
        let output = own.env(ROLE, "1").output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        return;
    }
    let mut own = capabilities(None).unwrap();
    own.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, own).unwrap();
    let mapping = Mapping::anonymous(20);
    let memory = private(&mapping);
    let mapped = memory.map_pages().unwrap();
    for (pages, words) in [
        (
            8,
            "12.0 KiB are to be pinned beside 24.0 KiB that are, and RLIMIT_MEMLOCK allows 32.0 KiB",
        ),
        (
            0,
            "12.0 KiB are to be pinned beside 24.0 KiB that are, and RLIMIT_MEMLOCK allows 0 B",
        ),
    ] {
        mapped.unpin(PageRange::new(0, 20)).unwrap();
        mapped.pin(PageRange::new(0, 6)).unwrap();
        let limit = Rlimit {
            current: Some(pages * 4096),
            ..getrlimit(Resource::Memlock)
        };
        setrlimit(Resource::Memlock, limit).unwrap();
        let error = mapped.pin(PageRange::new(10, 3)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(error.contains("`ulimit -l unlimited`"), "{error}");
        assert!(error.contains("region0 at byte 40960"), "{error}");
    }
}
