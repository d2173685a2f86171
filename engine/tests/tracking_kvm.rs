//! KVM's dirty log, with a vCPU that writes a byte at a time.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "a machine is made by ioctls, of mapped memory")]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use memmap2::MmapRaw;
use pagelift_engine::dirty::{DirtySource, KvmLog, LoggedSlot};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::sys::KvmSlot;
use pagelift_engine::units::{PageCount, PageRange};

/// Pages of each slot: no multiple of 64, and more than one call clears.
const PAGES: u64 = 1200;

/// Requests of linux/kvm.h.
const KVM_CREATE_VM: u64 = 0xae01;
const KVM_GET_VCPU_MMAP_SIZE: u64 = 0xae04;
const KVM_CREATE_VCPU: u64 = 0xae41;
const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
const KVM_SET_TSS_ADDR: u64 = 0xae47;
const KVM_RUN: u64 = 0xae80;
const KVM_SET_REGS: u64 = 0x4090_ae82;
const KVM_GET_SREGS: u64 = 0x8138_ae83;
const KVM_SET_SREGS: u64 = 0x4138_ae84;
const KVM_EXIT_HLT: u32 = 5;

/// `mov %al, 0; hlt`, in real mode: a byte at the beginning of the data segment.
const CODE: [u8; 4] = [0xa2, 0x00, 0x00, 0xf4];

/// The page that the code is in.
const CODE_PAGE: u64 = 1;

/// A machine with a vCPU and two slots, which lie apart.
struct Machine {
    memory: Arc<MmapRaw>,
    vm: OwnedFd,
    vcpu: OwnedFd,
    run: MmapRaw,
}

/// What the kernel answers to a request; what is refused is the reason to skip.
fn ask(fd: RawFd, request: u64, argument: u64) -> std::io::Result<RawFd> {
    // SAFETY: requests of this file, each with what it takes.
    match unsafe { libc::ioctl(fd, request, argument) } {
        -1 => Err(std::io::Error::last_os_error()),
        answer => Ok(answer),
    }
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of).expose_provenance() as u64
}

impl Machine {
    fn new() -> std::io::Result<Self> {
        // SAFETY: new descriptors, which nobody else has.
        let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
        let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
        let vm = owned(ask(kvm.as_raw_fd(), KVM_CREATE_VM, 0)?);
        ask(vm.as_raw_fd(), KVM_SET_TSS_ADDR, 0xfffb_d000)?;
        let file = tempfile::tempfile_in("/dev/shm")?;
        file.set_len(2 * PAGES * 4096)?;
        let memory = Arc::new(MmapRaw::map_raw(&file)?);
        let vcpu = owned(ask(vm.as_raw_fd(), KVM_CREATE_VCPU, 0)?);
        let size = ask(kvm.as_raw_fd(), KVM_GET_VCPU_MMAP_SIZE, 0)?;
        let run = memmap2::MmapOptions::new()
            .len(size as usize)
            .map_raw(&vcpu)?;
        let machine = Self {
            memory,
            vm,
            vcpu,
            run,
        };
        for slot in machine.slots() {
            let slot = slot.slot;
            let numbers = u64::from(slot.slot) | u64::from(slot.flags) << 32;
            let region = [numbers, slot.guest_address, slot.len_bytes, slot.address];
            ask(
                machine.vm.as_raw_fd(),
                KVM_SET_USER_MEMORY_REGION,
                address(&region),
            )?;
        }
        let at = machine.memory.as_mut_ptr();
        // SAFETY: within the mapping, to which Rust holds no reference.
        unsafe {
            at.add(CODE_PAGE as usize * 4096)
                .copy_from(CODE.as_ptr(), CODE.len());
        }
        Ok(machine)
    }

    fn slots(&self) -> [LoggedSlot; 2] {
        [0, 1].map(|number: u32| LoggedSlot {
            slot: KvmSlot {
                slot: number,
                flags: 0,
                guest_address: u64::from(number) << 24,
                len_bytes: PAGES * 4096,
                address: self.memory.as_ptr().expose_provenance() as u64
                    + u64::from(number) * PAGES * 4096,
            },
            range: PageRange::new(u64::from(number) * PAGES, PAGES),
        })
    }

    fn log(&self) -> KvmLog {
        let vm = self.vm.try_clone().unwrap();
        // SAFETY: the slots that the machine was made with.
        unsafe { KvmLog::new(vm, self.slots()) }
    }

    /// Has the vCPU write to a page of the layout.
    fn write(&self, page: u64) {
        let (slot, page) = (page / PAGES, page % PAGES);
        let mut special = [0_u64; 39];
        let vcpu = self.vcpu.as_raw_fd();
        let into = std::ptr::from_mut(&mut special).expose_provenance() as u64;
        ask(vcpu, KVM_GET_SREGS, into).unwrap();
        // The bases of the code and the data segment, and the selector of the former.
        special[0] = CODE_PAGE * 4096;
        special[1] &= !(0xffff << 32);
        special[3] = (slot << 24) + page * 4096;
        ask(vcpu, KVM_SET_SREGS, address(&special)).unwrap();
        let mut registers = [0_u64; 18];
        (registers[0], registers[17]) = (7, 2);
        ask(vcpu, KVM_SET_REGS, address(&registers)).unwrap();
        ask(vcpu, KVM_RUN, 0).unwrap();
        // SAFETY: `exit_reason` of the vCPU's page, which it does not write while it stands.
        let reason = unsafe { self.run.as_ptr().add(8).cast::<u32>().read() };
        assert_eq!(reason, KVM_EXIT_HLT);
    }
}

fn machine() -> Option<Machine> {
    let machine = Machine::new();
    machine
        .inspect_err(|error| println!("SKIP: KVM cannot be used here: {error}"))
        .ok()
}

fn harvest(log: &mut KvmLog) -> Vec<u64> {
    let mut pages = PageBitmap::new(PageCount(2 * PAGES));
    log.harvest(&mut pages).unwrap();
    pages.runs().flat_map(PageRange::indices).collect()
}

#[test]
fn a_page_is_reported_until_it_is_cleared_and_again_when_it_is_written_then() {
    let Some(machine) = machine() else { return };
    let mut log = machine.log();
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
    let Some(machine) = machine() else { return };
    let mut log = machine.log();
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
    let Some(machine) = machine() else { return };
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
