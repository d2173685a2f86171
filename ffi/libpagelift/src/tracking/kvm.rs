//! Writes of the vCPUs of a KVM machine, from its dirty log.

use std::ffi::c_void;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use pagelift_engine::dirty::{DirtySource, KvmLog, LoggedSlot};
use pagelift_engine::memory::Layout;
use pagelift_engine::sys::KvmSlot as EngineSlot;
use pagelift_engine::units::{PAGE_BYTES, PageRange};

use super::Tracking;
use crate::abi::{self, Versioned};
use crate::error::{Code, Fault};
use crate::ram::{self, Description, Ram};

/// A slot of a KVM machine, as KVM_SET_USER_MEMORY_REGION was told of it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KvmSlot {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// Its number.
    pub slot: u32,
    /// Its flags. KVM_MEM_LOG_DIRTY_PAGES is the library's to set and to take away.
    pub flags: u32,
    /// guest_phys_addr.
    pub guest_address: u64,
    /// memory_size.
    pub bytes: u64,
    /// userspace_addr: within a region, whose address it counts from.
    pub address: *mut c_void,
}

// SAFETY: numbers and a pointer, all of which may be zero.
unsafe impl Versioned for KvmSlot {
    const LEAST: usize = size_of::<Self>();
}

/// The dirty log of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    vm: Arc<OwnedFd>,
    slots: Vec<LoggedSlot>,
}

impl Machine {
    /// The pages whose writes it knows.
    pub(super) fn pages(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.slots.iter().map(|slot| slot.range)
    }

    pub(super) fn source(&self) -> Result<Box<dyn DirtySource>, Fault> {
        let vm = self.vm.try_clone();
        let vm = vm.map_err(|error| Fault::new(Code::System, error))?;
        // SAFETY: pagelift_ram_track_kvm makes the caller promise that the machine has these slots.
        Ok(Box::new(unsafe {
            KvmLog::new(vm, self.slots.iter().copied())
        }))
    }
}

impl KvmSlot {
    /// The slot, with the pages of the layout that it holds.
    fn placed(&self, ram: &Description, layout: &Layout) -> Result<LoggedSlot, Fault> {
        let address = self.address.expose_provenance() as u64;
        let bad = |what: &str| Fault::argument(format!("slot {}: {what}", self.slot));
        let page = PAGE_BYTES as u64;
        if !address.is_multiple_of(page) || !self.bytes.is_multiple_of(page) || self.bytes == 0 {
            return Err(bad("its address and length are no whole pages"));
        }
        let mapped = ram.mapped(layout).into_iter();
        let mut within = mapped.filter(|region| region.address != 0);
        let place = within.find_map(|region| {
            let first = address.checked_sub(region.address)? / page;
            let range = PageRange::new(region.range.first.0.checked_add(first)?, self.bytes / page);
            (range.end() <= region.range.end()).then_some(range)
        });
        Ok(LoggedSlot {
            range: place.ok_or_else(|| bad("its memory is in no region, or in several"))?,
            slot: EngineSlot {
                slot: self.slot,
                flags: self.flags,
                guest_address: self.guest_address,
                len_bytes: self.bytes,
                address,
            },
        })
    }
}

/// A descriptor that C names.
pub(super) fn borrowed<'a>(what: &str, fd: i32) -> Result<BorrowedFd<'a>, Fault> {
    if fd < 0 {
        return Err(Fault::argument(format!("{what} is {fd}")));
    }
    // SAFETY: not negative; if it is no descriptor the kernel says so.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Each of `count` slots, with the pages of the layout that it holds.
///
/// # Safety
/// `slots` points to `count` structures that were set up by PAGELIFT_INIT.
pub(super) unsafe fn placed(
    description: &Description,
    slots: *const KvmSlot,
    count: usize,
) -> Result<Vec<LoggedSlot>, Fault> {
    let layout = description.layout()?;
    let mut known = Vec::new();
    let mut at = slots;
    for _ in 0..count {
        // SAFETY: the caller's promise.
        let (slot, size) = unsafe { abi::read_sized(at)? };
        known.push(slot.placed(description, &layout)?);
        // Each is as long as the caller's header has it.
        at = at.wrapping_byte_add(size);
    }
    Ok(known)
}

/// Tracks writes by KVM's dirty log: what the vCPUs of the machine `vm_fd` write to `count` slots. Writes of
/// the hypervisor's own devices are to be tracked as well, by a bitmap for one. Marks are cleared by hand
/// where the kernel can (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, which stays enabled). The library keeps its own
/// copy of the descriptor.
///
/// # Errors
/// PAGELIFT_CODE_ARGUMENT when a slot's memory is not in one region, or the descriptor is none.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// `slots` points to `count` structures that were set up by PAGELIFT_INIT. The machine is one of this
/// process, and has these slots, as described, until every job that is made of this description has been
/// freed: another number would be mapped anew, and another guest address would move its memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_track_kvm(
    ram: *mut Ram,
    vm_fd: i32,
    slots: *const KvmSlot,
    count: usize,
) -> Code {
    let machine = |description: &Description| {
        let vm = borrowed("vm_fd", vm_fd)?.try_clone_to_owned();
        let vm = vm.map_err(|error| Fault::argument(format!("vm_fd {vm_fd}: {error}")))?;
        // SAFETY: the caller's promise.
        let slots = unsafe { placed(description, slots, count)? };
        let vm = Arc::new(vm);
        Ok(Tracking::Kvm(Machine { vm, slots }))
    };
    // SAFETY: the caller's promise.
    unsafe { ram::track(ram, machine) }
}
