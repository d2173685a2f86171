//! KVM's dirty log of a virtual machine's memory slots.
//!
//! See KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG and
//! KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 in the kernel's Documentation/virt/kvm/api.rst.
//!
//! A machine answers only to the process that has created it.

#![allow(
    unsafe_code,
    reason = "rustix has no typed calls for the ioctls of KVM"
)]

use std::ffi::c_void;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, Updater, ioctl, opcode};

use super::SysError;

/// `KVMIO` of linux/kvm.h.
const GROUP: u8 = 0xae;
const KVM_CHECK_EXTENSION: Opcode = opcode::none(GROUP, 0x03);
const KVM_GET_DIRTY_LOG: Opcode = opcode::write::<DirtyLog>(GROUP, 0x42);
const KVM_SET_USER_MEMORY_REGION: Opcode = opcode::write::<MemoryRegion>(GROUP, 0x46);
const KVM_ENABLE_CAP: Opcode = opcode::write::<EnableCap>(GROUP, 0xa3);
const KVM_RESET_DIRTY_RINGS: Opcode = opcode::none(GROUP, 0xc7);
const KVM_CLEAR_DIRTY_LOG: Opcode = opcode::read_write::<ClearDirtyLog>(GROUP, 0xc0);

/// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` and `KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE`.
const MANUAL_PROTECT: u32 = 168;
const MANUAL_PROTECT_ENABLE: u64 = 1;

/// `KVM_MEM_LOG_DIRTY_PAGES`.
const LOG_DIRTY_PAGES: u32 = 1;

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest_phys_addr: u64,
    memory_size: u64,
    userspace_addr: u64,
}

/// `struct kvm_dirty_log`.
#[repr(C)]
struct DirtyLog {
    slot: u32,
    padding: u32,
    bitmap: u64,
}

/// `struct kvm_clear_dirty_log`.
#[repr(C)]
struct ClearDirtyLog {
    slot: u32,
    pages: u32,
    first_page: u64,
    bitmap: u64,
}

/// `struct kvm_enable_cap`.
#[repr(C)]
struct EnableCap {
    cap: u32,
    flags: u32,
    args: [u64; 4],
    pad: [u8; 64],
}

/// Whether a machine has a capability.
struct CheckExtension(u32);

// SAFETY: the argument of KVM_CHECK_EXTENSION is an integer in place of the pointer, and nothing is
// written through it.
unsafe impl Ioctl for CheckExtension {
    type Output = i32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        KVM_CHECK_EXTENSION
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0 as usize)
    }

    unsafe fn output_from_ptr(answer: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(answer)
    }
}

/// Frees the entries that were taken from dirty rings.
struct ResetRings;

// SAFETY: KVM_RESET_DIRTY_RINGS takes no argument, and nothing is written through it.
unsafe impl Ioctl for ResetRings {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        KVM_RESET_DIRTY_RINGS
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(count: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        Ok(count.cast_unsigned())
    }
}

/// A slot of guest memory, as its machine has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvmSlot {
    /// Its number, with that of its address space in the upper half.
    pub slot: u32,
    /// Its flags, without the one for the dirty log.
    pub flags: u32,
    /// Where the guest has it.
    pub guest_address: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Where this process has it mapped.
    pub address: u64,
}

/// A virtual machine of this process.
#[derive(Debug)]
pub struct KvmVm {
    fd: OwnedFd,
}

impl KvmVm {
    /// The machine that `fd` stands for.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Has the dirty log leave marks until they are [cleared](Self::clear_dirty_log), if the kernel can
    /// (Linux 5.2): it then protects pages in pieces, and not all at once with its lock held. Returns
    /// whether it does. Replaces what was enabled before, "initially set" included.
    ///
    /// # Errors
    /// When the descriptor is no machine of this process.
    pub fn enable_manual_protect(&self) -> Result<bool, SysError> {
        // SAFETY: see the implementation.
        let can = unsafe { ioctl(&self.fd, CheckExtension(MANUAL_PROTECT)) }
            .map_err(|errno| SysError::failed("KVM_CHECK_EXTENSION", errno))?;
        if can == 0 {
            return Ok(false);
        }
        let enable = EnableCap {
            cap: MANUAL_PROTECT,
            flags: 0,
            args: [MANUAL_PROTECT_ENABLE, 0, 0, 0],
            pad: [0; 64],
        };
        // SAFETY: the opcode and the type belong together. How dirty pages are logged is all that
        // changes.
        unsafe { ioctl(&self.fd, Setter::<KVM_ENABLE_CAP, _>::new(enable)) }
            .map_err(|errno| SysError::failed("KVM_ENABLE_CAP", errno))?;
        Ok(true)
    }

    /// Turns the dirty log of a slot on or off. Turned on, it begins empty.
    ///
    /// # Errors
    /// When the slot is not what its machine has (`EINVAL`), or there is not enough memory.
    ///
    /// # Safety
    /// The machine has this slot, as described: another number would be mapped anew, and another guest
    /// address would move the memory.
    pub unsafe fn set_logging(&self, slot: &KvmSlot, on: bool) -> Result<(), SysError> {
        let region = MemoryRegion {
            slot: slot.slot,
            flags: slot.flags & !LOG_DIRTY_PAGES | if on { LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: slot.guest_address,
            memory_size: slot.len_bytes,
            userspace_addr: slot.address,
        };
        // SAFETY: the opcode and the type belong together; the caller says that only the flag for the
        // log changes.
        unsafe {
            ioctl(
                &self.fd,
                Setter::<KVM_SET_USER_MEMORY_REGION, _>::new(region),
            )
        }
        .map_err(|errno| SysError::failed("KVM_SET_USER_MEMORY_REGION", errno))
    }

    /// Protects the pages of all entries that were taken from the machine's dirty rings, and frees the
    /// entries. Returns how many.
    ///
    /// # Errors
    /// When the machine logs by no rings (`EINVAL`).
    pub fn reset_rings(&self) -> Result<u32, SysError> {
        // SAFETY: see the implementation.
        unsafe { ioctl(&self.fd, ResetRings) }
            .map_err(|errno| SysError::failed("KVM_RESET_DIRTY_RINGS", errno))
    }

    /// Copies the dirty log of slot number `slot`, which has `pages` pages, into `bitmap`. Without manual
    /// protection it is cleared in the same step.
    ///
    /// # Errors
    /// When the slot has no log (`ENOENT`), or the machine logs by rings instead (`ENXIO`).
    ///
    /// # Panics
    /// If `bitmap` has not a bit for each page.
    ///
    /// # Safety
    /// The slot has no more than `pages` pages: the kernel writes a bit for each.
    pub unsafe fn dirty_log(
        &self,
        slot: u32,
        pages: u64,
        bitmap: &mut [u64],
    ) -> Result<(), SysError> {
        assert_eq!(
            bitmap.len() as u64,
            pages.div_ceil(64),
            "a bit for each page"
        );
        let log = DirtyLog {
            slot,
            padding: 0,
            bitmap: bitmap.as_mut_ptr().expose_provenance() as u64,
        };
        // SAFETY: the opcode and the type belong together; the kernel writes whole words of 64 bits, for
        // which there is room.
        match unsafe { ioctl(&self.fd, Setter::<KVM_GET_DIRTY_LOG, _>::new(log)) } {
            Err(Errno::NXIO) => Err(SysError::Unsupported {
                what: "the machine tracks writes by dirty rings, and has no dirty log".into(),
                remedy: "do not enable KVM_CAP_DIRTY_LOG_RING for it".into(),
            }),
            result => result.map_err(|errno| SysError::failed("KVM_GET_DIRTY_LOG", errno)),
        }
    }

    /// Clears the marks of those pages of slot number `slot`, from `first_page` on, whose bits are set,
    /// and protects them: a write that comes later marks them again.
    ///
    /// `first_page` is a multiple of 64, and so is `pages`, unless they reach to the slot's end.
    ///
    /// # Errors
    /// When the range is no such range (`EINVAL`), or manual protection is not enabled.
    ///
    /// # Panics
    /// If `bitmap` has not a bit for each of `pages` pages.
    pub fn clear_dirty_log(
        &self,
        slot: u32,
        first_page: u64,
        pages: u32,
        bitmap: &[u64],
    ) -> Result<(), SysError> {
        assert_eq!(
            bitmap.len(),
            pages.div_ceil(64) as usize,
            "a bit for each page"
        );
        let mut clear = ClearDirtyLog {
            slot,
            pages,
            first_page,
            bitmap: bitmap.as_ptr().expose_provenance() as u64,
        };
        // SAFETY: the opcode and the type belong together; the kernel only reads the bitmap.
        unsafe { ioctl(&self.fd, Updater::<KVM_CLEAR_DIRTY_LOG, _>::new(&mut clear)) }
            .map_err(|errno| SysError::failed("KVM_CLEAR_DIRTY_LOG", errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn opcodes_carry_the_sizes_of_the_kernels_structures() {
        assert_eq!(KVM_GET_DIRTY_LOG, 0x4010_ae42);
        assert_eq!(KVM_SET_USER_MEMORY_REGION, 0x4020_ae46);
        assert_eq!(KVM_ENABLE_CAP, 0x4068_aea3);
        assert_eq!(KVM_CLEAR_DIRTY_LOG, 0xc018_aec0);
    }

    #[test]
    fn a_descriptor_that_is_no_machine_is_an_error() {
        let vm = KvmVm::from_fd(File::open("/dev/null").unwrap().into());
        let error = vm.enable_manual_protect().unwrap_err().to_string();
        assert!(error.starts_with("KVM_CHECK_EXTENSION failed"), "{error}");
        let error = vm.clear_dirty_log(0, 0, 64, &[0]).unwrap_err().to_string();
        assert!(error.starts_with("KVM_CLEAR_DIRTY_LOG failed"), "{error}");
    }
}
