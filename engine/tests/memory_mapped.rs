//! Guest memory in private mappings of this process.

#![allow(
    unsafe_code,
    reason = "mapped memory is given to the engine by its address"
)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use pagelift_engine::memory::{GuestMemory, MappedMemory, ReadPages};
use pagelift_engine::sys::PagemapScan;
use pagelift_engine::units::{PAGE_BYTES, PageIndex, PageRange};
use support::{Mapping, harvest, layout, pages, populated, read, runs};

/// A view of all of `mapping`, as regions of `pages` pages each.
fn mapped(mapping: &Mapping, pages: &[u64]) -> MappedMemory {
    let mut at = mapping.start();
    let mut starts = Vec::new();
    for count in pages {
        starts.push(at);
        at = at.wrapping_add(*count as usize * PAGE_BYTES);
    }
    // SAFETY: the mapping is anonymous and outlives the view in every test; it is otherwise
    // accessed with volatile single-byte operations on the same thread only.
    unsafe { MappedMemory::new(layout(pages), starts) }
}

#[test]
fn mapped_regions_make_one_memory() {
    let mapping = Mapping::anonymous(10);
    let memory = mapped(&mapping, &[3, 7]);
    memory.write(PageIndex(1), &pages(&[1, 2, 3, 4])).unwrap();
    assert_eq!(read(&memory, 0, 6), pages(&[0, 1, 2, 3, 4, 0]));
    assert_eq!(mapping.read(3), 3);
    memory.write_zeros(PageRange::new(2, 2)).unwrap();
    assert_eq!(read(&memory, 0, 6), pages(&[0, 1, 0, 0, 4, 0]));
    let mut out = vec![0; PAGE_BYTES];
    assert!(memory.read(PageRange::new(10, 1), &mut out).is_err());
    assert!(memory.write(PageIndex(10), &out).is_err());
    assert!(memory.write_zeros(PageRange::new(9, 2)).is_err());
}

#[test]
fn mapped_memory_is_populated_by_writing_alone() {
    if let Err(error) = PagemapScan::probe() {
        eprintln!("SKIP: {error}");
        return;
    }
    let mapping = Mapping::anonymous(2000);
    let memory = mapped(&mapping, &[900, 1100]);
    memory.write_zeros(PageRange::new(0, 2000)).unwrap();
    assert_eq!(read(&memory, 890, 20), vec![0; 20 * PAGE_BYTES]);
    assert_eq!(populated(&memory), []);
    memory.write(PageIndex(899), &pages(&[1, 1])).unwrap();
    mapping.write(1999, 1);
    mapping.write(3, 0);
    assert_eq!(populated(&memory), runs(&[(3, 1), (899, 2), (1999, 1)]));
}

#[test]
fn pages_behind_write_protection_are_never_left_out() {
    let mapping = Mapping::anonymous(100);
    mapping.write(5, 1);
    let Some(uffd) = support::userfaultfd() else {
        return;
    };
    // By somebody who protects what is not populated as well.
    let len_bytes = PageRange::new(0, 100).bytes().0;
    uffd.register_write_protect(mapping.address(), len_bytes)
        .unwrap();
    uffd.write_protect(mapping.address(), len_bytes).unwrap();
    let memory = mapped(&mapping, &[100]);
    assert_eq!(populated(&memory), runs(&[(0, 100)]));
    assert_eq!(read(&memory, 5, 1)[2000], 1);
}

#[test]
fn a_tracker_hides_nothing_of_what_is_populated() {
    let mapping = Mapping::anonymous(2000);
    mapping.write(5, 1);
    mapping.read(6);
    let ranges = vec![mapping.tracked(0, PageRange::new(0, 2000))];
    let Some(mut tracker) = support::tracker(ranges) else {
        return;
    };
    let memory = mapped(&mapping, &[2000]);
    assert_eq!(populated(&memory), runs(&[(5, 1)]));
    mapping.write(1200, 1);
    assert_eq!(populated(&memory), runs(&[(5, 1), (1200, 1)]));
    assert_eq!(harvest(&mut tracker, 2000), runs(&[(1200, 1)]));
    assert_eq!(populated(&memory), runs(&[(5, 1), (1200, 1)]));
}

/// A writer changes whole pages while they are copied: each byte is one of the two values.
#[test]
fn a_copy_under_concurrent_writes_is_torn_at_worst() {
    let mapping = Mapping::anonymous(8);
    let (one, two) = (mapped(&mapping, &[8]), mapped(&mapping, &[8]));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for step in 0..2000 {
                two.write(
                    PageIndex(0),
                    &pages(&[if step % 2 == 0 { 0xaa } else { 0x55 }; 8]),
                )
                .unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let content = read(&one, 0, 8);
            assert!(content.iter().all(|byte| matches!(byte, 0 | 0xaa | 0x55)));
        }
    });
    assert_eq!(read(&one, 0, 8), pages(&[0x55; 8]));
}
