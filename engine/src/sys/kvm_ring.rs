//! KVM's dirty ring of a vCPU: the pages that it has written, one entry each, in order.
//!
//! See KVM_CAP_DIRTY_LOG_RING in the kernel's Documentation/virt/kvm/api.rst. The kernel fills entries
//! in and sets `DIRTY`; the reader takes them and sets `RESET`; KVM_RESET_DIRTY_RINGS protects their
//! pages again and frees the entries.

#![allow(
    unsafe_code,
    reason = "the ring is memory that the kernel writes, mapped from a vCPU"
)]

use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;

use super::SysError;

/// `KVM_DIRTY_LOG_PAGE_OFFSET`, of x86 and arm64, in bytes.
const OFFSET: u64 = 64 * 4096;

/// `KVM_DIRTY_GFN_F_DIRTY` and `KVM_DIRTY_GFN_F_RESET`.
const DIRTY: u32 = 1;
const RESET: u32 = 2;

/// `struct kvm_dirty_gfn`.
#[repr(C)]
struct Entry {
    flags: AtomicU32,
    /// Its number, with that of its address space in the upper half.
    slot: u32,
    /// Page within the slot.
    page: u64,
}

/// The dirty ring of a vCPU, and how far it was read.
#[derive(Debug)]
pub(crate) struct KvmRing {
    ring: MmapRaw,
    entries: usize,
    next: usize,
}

impl KvmRing {
    /// Maps the ring of `vcpu`, of which nothing was read so far.
    ///
    /// # Errors
    /// When it cannot be mapped.
    ///
    /// # Panics
    /// If `entries` is no power of two.
    ///
    /// # Safety
    /// The machine was given rings of `entries` entries by KVM_ENABLE_CAP: to read behind the end of one
    /// kills the process. Nobody else takes entries out, before or after.
    pub(crate) unsafe fn map(vcpu: BorrowedFd<'_>, entries: usize) -> Result<Self, SysError> {
        assert!(entries.is_power_of_two(), "rings are powers of two");
        let mut options = MmapOptions::new();
        let options = options.offset(OFFSET).len(entries * size_of::<Entry>());
        let ring = options.map_raw(&vcpu).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            SysError::failed("mmap of a vCPU's dirty ring", errno)
        })?;
        Ok(Self {
            ring,
            entries,
            next: 0,
        })
    }

    /// Takes the entries that are filled in, and gives slot number and page of each to `found`. They are
    /// free, and their pages protected, after [`reset_rings`](super::KvmVm::reset_rings).
    pub(crate) fn take(&mut self, mut found: impl FnMut(u32, u64)) {
        loop {
            let entry = self.ring.as_ptr().cast::<Entry>();
            // SAFETY: within the mapping, which is `entries` long and aligned to pages. The kernel writes
            // slot and page before it sets DIRTY, and not again before the entry was reset.
            let (flags, slot, page) = unsafe {
                let entry = entry.add(self.next & (self.entries - 1));
                let flags = &(*entry).flags;
                if flags.load(Ordering::Acquire) & DIRTY == 0 {
                    return;
                }
                let slot = (&raw const (*entry).slot).read_volatile();
                (flags, slot, (&raw const (*entry).page).read_volatile())
            };
            flags.store(RESET, Ordering::Release);
            self.next = self.next.wrapping_add(1);
            found(slot, page);
        }
    }
}
