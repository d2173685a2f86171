//! Writes of the vCPUs of a KVM machine, from their dirty rings.

use std::os::fd::BorrowedFd;

use pagelift_engine::dirty::{DirtySource, KvmRings as EngineRings, LoggedSlot};
use pagelift_engine::memory::Layout;
use pagelift_engine::units::PageRange;

use super::Tracking;
use super::kvm::{KvmSlot, borrowed, placed};
use crate::error::{Code, Error, Fault};
use crate::handle::{self, Handle};
use crate::ram::{self, Description, Ram};

/// Bytes of an entry of a ring: `struct kvm_dirty_gfn`.
const ENTRY_BYTES: u64 = 16;

/// The dirty rings of a KVM machine. One for the life of the machine: it knows how far each was read.
/// Several threads may call its functions at once.
#[derive(Debug)]
pub struct KvmRings(());

impl Handle for KvmRings {
    type Body = EngineRings;
    const TAG: u32 = 0x706c_6b72;
}

/// Slots whose writes rings tell of.
#[derive(Clone, Debug)]
pub(crate) struct Ringed {
    rings: EngineRings,
    slots: Vec<LoggedSlot>,
}

impl Ringed {
    /// The pages whose writes it knows.
    pub(super) fn pages(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.slots.iter().map(|slot| slot.range)
    }

    pub(super) fn source(&self, layout: &Layout) -> Box<dyn DirtySource> {
        // SAFETY: pagelift_ram_track_kvm_rings makes the caller promise that the machine has these slots.
        Box::new(unsafe { self.rings.tracker(self.slots.clone(), layout.pages()) })
    }
}

/// The rings of the machine `vm_fd`, one for each of its `count` vCPUs, which KVM_ENABLE_CAP was told to give
/// `ring_bytes` each before the vCPUs were made (KVM_CAP_DIRTY_LOG_RING_ACQ_REL). The library keeps its own
/// copy of the descriptors. Free them with pagelift_kvm_rings_free.
///
/// Where KVM_RUN returns with KVM_EXIT_DIRTY_RING_FULL, call pagelift_kvm_rings_reap and run the vCPU again.
///
/// # Errors
/// Null, and the reason in `error` unless that is null.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// `vcpu_fds` points to `count` descriptors, of all vCPUs in the order of their index. Rings that are
/// shorter than `ring_bytes` kill the process. Nobody else takes entries out. `error` is null, or was set up
/// by PAGELIFT_INIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_kvm_rings_new(
    vm_fd: i32,
    vcpu_fds: *const i32,
    count: usize,
    ring_bytes: u64,
    error: *mut Error,
) -> *mut KvmRings {
    let make = || {
        if vcpu_fds.is_null() || !vcpu_fds.is_aligned() || count == 0 {
            return Err(Fault::argument("there are no vcpu_fds"));
        }
        let entries = ring_bytes / ENTRY_BYTES;
        if !ring_bytes.is_power_of_two() || entries == 0 {
            let text = format!("ring_bytes is {ring_bytes}, which is no power of two from 16 on");
            return Err(Fault::argument(text));
        }
        // SAFETY: the caller's promise.
        let vcpus = unsafe { std::slice::from_raw_parts(vcpu_fds, count) };
        let vcpus = vcpus.iter().map(|fd| borrowed("a vCPU's descriptor", *fd));
        let vcpus = vcpus.collect::<Result<Vec<BorrowedFd<'_>>, Fault>>()?;
        let vm = borrowed("vm_fd", vm_fd)?.try_clone_to_owned();
        let vm = vm.map_err(|error| Fault::argument(format!("vm_fd {vm_fd}: {error}")))?;
        // SAFETY: the caller's promise.
        unsafe { EngineRings::new(vm, &vcpus, entries as usize) }
            .map_err(|error| Fault::new(Code::DirtyTracking, error))
    };
    // SAFETY: the caller's promise.
    unsafe { handle::made(make, error) }
}

/// Empties all rings, so that vCPUs whose rings were full can run again. What was written is not lost: a
/// job that tracks by the rings sends it.
///
/// # Threads
/// From any thread, those of vCPUs above all; not from a callback.
///
/// # Safety
/// `rings` is a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_kvm_rings_reap(rings: *const KvmRings) -> Code {
    let reap = |rings: &EngineRings| {
        let reaped = rings.reap();
        reaped.map_err(|error| Fault::new(Code::DirtyTracking, error))
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(rings, reap) }
}

/// Tracks writes by dirty rings: what vCPUs write to `count` slots. Writes of the hypervisor's own devices
/// are to be tracked as well, by a bitmap for one. As each vCPU is counted, the throttle slows down those
/// that write. One job at a time can track by the rings.
///
/// # Errors
/// PAGELIFT_CODE_ARGUMENT when a slot's memory is not in one region.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// As for pagelift_ram_track_kvm; and the slots are of the machine that the rings were made for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_track_kvm_rings(
    ram: *mut Ram,
    rings: *const KvmRings,
    slots: *const KvmSlot,
    count: usize,
) -> Code {
    let track = |description: &Description| {
        // SAFETY: the caller's promise.
        let rings = unsafe { handle::body(rings, "pagelift_kvm_rings")? }.clone();
        // SAFETY: the caller's promise.
        let slots = unsafe { placed(description, slots, count)? };
        Ok(Tracking::KvmRings(Ringed { rings, slots }))
    };
    // SAFETY: the caller's promise.
    unsafe { ram::track(ram, track) }
}

/// Writes the last error of `rings` to `error`.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// `error` was set up by PAGELIFT_INIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_kvm_rings_last_error(
    rings: *const KvmRings,
    error: *mut Error,
) -> Code {
    // SAFETY: the caller's promise.
    unsafe { handle::last_error(rings, error) }
}

/// Frees rings, or nothing if they are null. Jobs that track by them go on, but vCPUs whose rings are full
/// then run on only when a job next looks.
///
/// # Threads
/// From any thread, when no other call uses the rings.
///
/// # Safety
/// No other call uses them, now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_kvm_rings_free(rings: *mut KvmRings) -> Code {
    // SAFETY: the caller's promise.
    unsafe { handle::free(rings, |_| Ok(())) }
}
