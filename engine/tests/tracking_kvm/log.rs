//! The dirty log.

use pagelift_engine::dirty::{DirtySource, KvmLog};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::units::{PageCount, PageRange};

use super::machine::{Machine, PAGES, harvest};

fn log(machine: &Machine) -> KvmLog {
    let vm = machine.vm.try_clone().unwrap();
    // SAFETY: the slots that the machine was made with.
    unsafe { KvmLog::new(vm, machine.slots()) }
}

#[test]
fn a_page_is_reported_until_it_is_cleared_and_again_when_it_is_written_then() {
    let Some(machine) = Machine::new(None) else {
        return;
    };
    let mut log = log(&machine);
    machine.write(5);
    log.arm().unwrap();
    assert_eq!(harvest(&mut log), [], "written before");
    for page in [2, 63, 64, PAGES - 1, PAGES, PAGES + 100, 2 * PAGES - 1] {
        machine.write(page);
    }
    let written = [2, 63, 64, PAGES - 1, PAGES, PAGES + 100, 2 * PAGES - 1];
    assert_eq!(harvest(&mut log), written);
    machine.write(63);
    assert_eq!(harvest(&mut log), [], "it is to be read anyway");

    let marks = log.clear_before_read().unwrap();
    marks.clear(PageRange::new(60, 4)).unwrap();
    assert_eq!(harvest(&mut log), [], "63 is clear, and 64 was not read");
    machine.write(63);
    machine.write(64);
    assert_eq!(harvest(&mut log), [63]);
    marks.clear(PageRange::new(0, 2 * PAGES)).unwrap();
    assert_eq!(harvest(&mut log), []);
    for page in written {
        machine.write(page);
    }
    assert_eq!(harvest(&mut log), written);
}

#[test]
fn what_was_not_delivered_is_reported_again() {
    let Some(machine) = Machine::new(None) else {
        return;
    };
    let mut log = log(&machine);
    log.arm().unwrap();
    machine.write(PAGES + 3);
    assert_eq!(harvest(&mut log), [PAGES + 3]);
    let mut lost = PageBitmap::new(PageCount(2 * PAGES));
    lost.insert(PageRange::new(PAGES + 3, 1));
    log.give_back(&lost);
    assert_eq!(harvest(&mut log), [PAGES + 3]);
    log.disarm();
    machine.write(9);
    log.arm().unwrap();
    assert_eq!(harvest(&mut log), [], "written while nobody tracked");
    machine.write(9);
    assert_eq!(harvest(&mut log), [9]);
}

#[test]
fn a_slot_that_the_machine_does_not_have_leaves_nothing_armed() {
    let Some(machine) = Machine::new(None) else {
        return;
    };
    let [first, mut second] = machine.slots();
    // Memory that is not mapped: the kernel refuses it.
    second.slot.address = 1 << 60;
    let vm = machine.vm.try_clone().unwrap();
    // SAFETY: the first slot is the machine's; the kernel refuses the second.
    let mut log = unsafe { KvmLog::new(vm, [first, second]) };
    let error = log.arm().unwrap_err().to_string();
    assert!(
        error.starts_with("KVM_SET_USER_MEMORY_REGION failed"),
        "{error}"
    );
    let mut pages = PageBitmap::new(PageCount(2 * PAGES));
    let error = log.harvest(&mut pages).unwrap_err().to_string();
    assert!(error.starts_with("KVM_GET_DIRTY_LOG failed"), "{error}");
}
