//! Dirty rings.

use pagelift_engine::dirty::{DirtySource, KvmRingTracker, KvmRings};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::units::{PageCount, PageRange};

use super::machine::{Machine, PAGES, harvest};

/// Entries of a ring: the least that KVM gives, of which it keeps some 600 in reserve.
const ENTRIES: u64 = 1024;

fn rings(machine: &Machine) -> KvmRings {
    let vm = machine.vm.try_clone().unwrap();
    // SAFETY: the machine was made with rings of as many entries, for its one vCPU.
    unsafe { KvmRings::new(vm, &[machine.vcpu()], ENTRIES as usize) }.unwrap()
}

fn tracker(machine: &Machine, rings: &KvmRings) -> KvmRingTracker {
    // SAFETY: the slots that the machine was made with.
    unsafe { rings.tracker(machine.slots().to_vec(), PageCount(2 * PAGES)) }
}

#[test]
fn written_pages_are_reported_once_and_again_when_they_are_written_again() {
    let Some(machine) = Machine::new(Some(ENTRIES)) else {
        return;
    };
    let mut rings = tracker(&machine, &rings(&machine));
    machine.write(5);
    rings.arm().unwrap();
    assert_eq!(harvest(&mut rings), [], "written before");
    let written = [2, 63, PAGES - 1, PAGES, 2 * PAGES - 1];
    for page in written {
        machine.write(page);
    }
    machine.write(63);
    assert_eq!(harvest(&mut rings), written);
    assert_eq!(harvest(&mut rings), []);
    machine.write(63);
    assert_eq!(harvest(&mut rings), [63]);
    assert_eq!(rings.written_by(), Some(vec![6]));
    let mut lost = PageBitmap::new(PageCount(2 * PAGES));
    lost.insert(PageRange::new(63, 1));
    rings.give_back(&lost);
    assert_eq!(harvest(&mut rings), [63]);
}

#[test]
fn a_full_ring_stops_its_vcpu_until_it_is_reaped_and_nothing_is_lost() {
    let Some(machine) = Machine::new(Some(ENTRIES)) else {
        return;
    };
    let rings = rings(&machine);
    let mut tracker = tracker(&machine, &rings);
    tracker.arm().unwrap();
    let mut reaped = 0;
    for page in 0..2 * PAGES {
        while !machine.try_write(page) {
            reaped += 1;
            rings.reap().unwrap();
        }
    }
    assert!(reaped > 0, "{ENTRIES} entries for {} pages", 2 * PAGES);
    let all: Vec<u64> = (0..2 * PAGES).collect();
    assert_eq!(harvest(&mut tracker), all);
    assert_eq!(tracker.written_by(), Some(vec![2 * PAGES]));
}

#[test]
fn a_machine_is_tracked_by_one_and_after_it_by_the_next() {
    let Some(machine) = Machine::new(Some(ENTRIES)) else {
        return;
    };
    let rings = rings(&machine);
    let (mut first, mut second) = (tracker(&machine, &rings), tracker(&machine, &rings));
    first.arm().unwrap();
    let error = second.arm().unwrap_err().to_string();
    assert!(error.contains("for another migration"), "{error}");
    machine.write(9);
    drop(first);
    machine.write(10);
    second.arm().unwrap();
    assert_eq!(harvest(&mut second), [], "written before");
    machine.write(9);
    assert_eq!(harvest(&mut second), [9]);
}

#[test]
fn a_machine_without_rings_says_so() {
    let Some(machine) = Machine::new(None) else {
        return;
    };
    let vm = machine.vm.try_clone().unwrap();
    // SAFETY: there is no ring that could be shorter.
    let error = unsafe { KvmRings::new(vm, &[machine.vcpu()], 1024) }.unwrap_err();
    assert!(error.to_string().contains("has no dirty rings"), "{error}");
}
