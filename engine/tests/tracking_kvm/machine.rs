//! A KVM machine with a vCPU that writes a byte at a time.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use memmap2::MmapRaw;
use pagelift_engine::dirty::{DirtySource, LoggedSlot};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::sys::KvmSlot;
use pagelift_engine::units::{PageCount, PageRange};

/// Pages of each slot: no multiple of 64, and more than one call clears.
pub(crate) const PAGES: u64 = 1200;

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
const KVM_ENABLE_CAP: u64 = 0x4068_aea3;
const KVM_EXIT_HLT: u32 = 5;
const KVM_EXIT_DIRTY_RING_FULL: u32 = 31;

/// `KVM_CAP_DIRTY_LOG_RING_ACQ_REL`.
const RINGS: u64 = 223;

/// `mov %al, 0; hlt`, in real mode: a byte at the beginning of the data segment.
const CODE: [u8; 4] = [0xa2, 0x00, 0x00, 0xf4];

/// The page that the code is in.
const CODE_PAGE: u64 = 1;

/// A machine with a vCPU and two slots, which lie apart.
pub(crate) struct Machine {
    memory: Arc<MmapRaw>,
    pub(crate) vm: OwnedFd,
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
    /// A machine, or why there is none here; with dirty rings of as many entries, if any.
    pub(crate) fn new(rings: Option<u64>) -> Option<Self> {
        let machine = Self::made(rings);
        machine
            .inspect_err(|error| println!("SKIP: KVM cannot be used here: {error}"))
            .ok()
    }

    fn made(rings: Option<u64>) -> std::io::Result<Self> {
        // SAFETY: new descriptors, which nobody else has.
        let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
        let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
        let vm = owned(ask(kvm.as_raw_fd(), KVM_CREATE_VM, 0)?);
        ask(vm.as_raw_fd(), KVM_SET_TSS_ADDR, 0xfffb_d000)?;
        if let Some(entries) = rings {
            let mut enable = [0_u64; 13];
            (enable[0], enable[1]) = (RINGS, entries * 16);
            ask(vm.as_raw_fd(), KVM_ENABLE_CAP, address(&enable))?;
        }
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

    pub(crate) fn vcpu(&self) -> BorrowedFd<'_> {
        self.vcpu.as_fd()
    }

    pub(crate) fn slots(&self) -> [LoggedSlot; 2] {
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

    /// Has the vCPU write to a page of the layout. False if its ring was full, and nothing was written.
    pub(crate) fn try_write(&self, page: u64) -> bool {
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
        assert!(
            [KVM_EXIT_HLT, KVM_EXIT_DIRTY_RING_FULL].contains(&reason),
            "{reason}"
        );
        reason == KVM_EXIT_HLT
    }

    /// Has the vCPU write to a page of the layout.
    pub(crate) fn write(&self, page: u64) {
        assert!(self.try_write(page), "its ring is full");
    }
}

/// What a harvest finds.
pub(crate) fn harvest(source: &mut dyn DirtySource) -> Vec<u64> {
    let mut pages = PageBitmap::new(PageCount(2 * PAGES));
    source.harvest(&mut pages).unwrap();
    pages.runs().flat_map(PageRange::indices).collect()
}
