//! userfaultfd(2) in asynchronous write-protect mode.
//!
//! See ioctl_userfaultfd(2), and "Write Protect Notifications" in the kernel's
//! Documentation/admin-guide/mm/userfaultfd.rst.
//!
//! In this mode the first write to a protected page makes the kernel lift the protection, by
//! itself and without telling anybody: the page then merely *is* unprotected, which
//! [`PagemapScan`](super::PagemapScan) reports. No thread ever waits for user space, and there
//! is nothing to read from the descriptor.
//!
//! A userfaultfd belongs to the address space of the process that opened it. The descriptor can
//! be passed on (`SCM_RIGHTS`), and every call here then works on the address space of that
//! other process. Closing the last copy of the descriptor lifts all protection.

#![allow(
    unsafe_code,
    reason = "userfaultfd changes how memory behaves; rustix leaves its ioctls to us"
)]

use std::ffi::c_void;

use linux_raw_sys::general::{
    UFFD_API, UFFD_FEATURE_WP_ASYNC, UFFD_FEATURE_WP_HUGETLBFS_SHMEM, UFFD_FEATURE_WP_UNPOPULATED,
    UFFD_USER_MODE_ONLY, UFFDIO_REGISTER_MODE_WP, uffdio_api, uffdio_copy, uffdio_range,
    uffdio_register, uffdio_writeprotect,
};
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Updater, ioctl, opcode};
use rustix::mm::{UserfaultfdFlags, userfaultfd};

use super::{SysError, kernel_release};
use crate::units::{PAGE_BYTES, PageCount};

/// `USERFAULTFD_IOC` and `UFFDIO` of linux/userfaultfd.h.
const GROUP: u8 = 0xaa;
const USERFAULTFD_IOC_NEW: Opcode = opcode::none(GROUP, 0x00);
const UFFDIO_API: Opcode = opcode::read_write::<uffdio_api>(GROUP, 0x3f);
const UFFDIO_REGISTER: Opcode = opcode::read_write::<uffdio_register>(GROUP, 0x00);
/// Declared `_IOR` in the header, although the kernel reads the range from it.
const UFFDIO_UNREGISTER: Opcode = opcode::read::<uffdio_range>(GROUP, 0x01);
const UFFDIO_COPY: Opcode = opcode::read_write::<uffdio_copy>(GROUP, 0x03);
const UFFDIO_WRITEPROTECT: Opcode = opcode::read_write::<uffdio_writeprotect>(GROUP, 0x06);
/// `UFFDIO_WRITEPROTECT_MODE_WP` of linux/userfaultfd.h.
const WRITEPROTECT_MODE_WP: u64 = 1;

/// Makes a userfaultfd from a descriptor of /dev/userfaultfd.
struct NewUserfaultfd(UserfaultfdFlags);

// SAFETY: the argument of USERFAULTFD_IOC_NEW is an integer in place of the pointer, nothing is
// written through it, and the result of a success is a new descriptor that nobody else owns.
unsafe impl Ioctl for NewUserfaultfd {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        USERFAULTFD_IOC_NEW
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0.bits() as usize)
    }

    unsafe fn output_from_ptr(fd: IoctlOutput, _: *mut c_void) -> rustix::io::Result<OwnedFd> {
        // SAFETY: a new descriptor, see above.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A userfaultfd, of this process or lent by another one.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
}

impl Userfaultfd {
    /// Opens a userfaultfd for this process's memory.
    ///
    /// Tried in this order: /dev/userfaultfd (its permissions decide), userfaultfd(2) (needs
    /// CAP_SYS_PTRACE or `vm.unprivileged_userfaultfd=1`), and userfaultfd(2) limited to faults
    /// from user mode, which needs no privilege. The last one is enough here: the limit is about
    /// faults that are *queued* for user space, because a process could hold up the kernel with
    /// them. Asynchronous write-protect faults are resolved by the kernel and never queued.
    ///
    /// # Errors
    /// When all three are refused; the message names the settings to change.
    pub fn open() -> Result<Self, SysError> {
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
        let user_mode_only = UserfaultfdFlags::from_bits_retain(UFFD_USER_MODE_ONLY);
        let attempts: [&dyn Fn() -> rustix::io::Result<OwnedFd>; 3] = [
            &|| {
                let device = rustix::fs::open(
                    "/dev/userfaultfd",
                    OFlags::RDWR | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                // SAFETY: the device has this one opcode. What this type does with the result
                // makes writes to the caller's memory slower; it never changes content.
                unsafe { ioctl(device, NewUserfaultfd(flags)) }
            },
            // SAFETY: as above, for the result.
            &|| unsafe { userfaultfd(flags) },
            // SAFETY: as above.
            &|| unsafe { userfaultfd(flags | user_mode_only) },
        ];
        let mut last = Errno::NOSYS;
        for attempt in attempts {
            match attempt() {
                Ok(fd) => return Ok(Self { fd }),
                Err(errno) => last = errno,
            }
        }
        Err(SysError::Unsupported {
            what: format!("no userfaultfd can be opened ({last})"),
            remedy: "set `sysctl vm.unprivileged_userfaultfd=1`, or let this user open \
                     /dev/userfaultfd, or grant CAP_SYS_PTRACE; under a seccomp filter, allow \
                     userfaultfd(2)"
                .into(),
        })
    }

    /// Takes a userfaultfd that this process was given, such as one of another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Agrees with the kernel on asynchronous write-protection, also of pages that are not
    /// populated and of shared memory. Once per userfaultfd, before anything is registered;
    /// whoever lends the descriptor may have done it already.
    ///
    /// # Errors
    /// When the kernel is older than Linux 6.7, or the features of this userfaultfd have been
    /// agreed on before.
    pub fn enable_async_write_protect(&self) -> Result<(), SysError> {
        let features =
            UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
        let mut api = uffdio_api {
            api: UFFD_API.into(),
            features: features.into(),
            ioctls: 0,
        };
        // SAFETY: the opcode and the type belong together, see ioctl_userfaultfd(2).
        match unsafe { ioctl(&self.fd, Updater::<UFFDIO_API, _>::new(&mut api)) } {
            Ok(()) => Ok(()),
            Err(Errno::INVAL) => Err(SysError::Unsupported {
                what: "the kernel refuses asynchronous write-protection by userfaultfd".into(),
                remedy: format!(
                    "Linux 6.7 or newer with CONFIG_PTE_MARKER_UFFD_WP is needed (this is {}), \
                     and a userfaultfd whose features are not agreed on yet",
                    kernel_release()
                ),
            }),
            Err(errno) => Err(SysError::failed("UFFDIO_API", errno)),
        }
    }

    /// Lets pages of `len_bytes` bytes from `address` on be write-protected. Protects none yet.
    ///
    /// Both are multiples of the page size of the mapping, which is a huge page's on hugetlbfs.
    ///
    /// # Errors
    /// When the range is not mapped (`EINVAL`), belongs to another userfaultfd (`EBUSY`), cannot
    /// be written (`EPERM`), or the process is gone (`ESRCH`).
    pub fn register_write_protect(&self, address: u64, len_bytes: u64) -> Result<(), SysError> {
        let mut register = uffdio_register {
            range: range(address, len_bytes),
            mode: UFFDIO_REGISTER_MODE_WP.into(),
            ioctls: 0,
        };
        // SAFETY: the opcode and the type belong together. Content is not changed.
        unsafe { ioctl(&self.fd, Updater::<UFFDIO_REGISTER, _>::new(&mut register)) }
            .map_err(|errno| SysError::failed("UFFDIO_REGISTER", errno))
    }

    /// Protects all pages of a registered range, whether they are populated or not.
    ///
    /// Costs about 17 ms per GiB of 4 KiB pages.
    ///
    /// # Errors
    /// When the range is not registered (`ENOENT`) or the process is gone (`ESRCH`).
    pub fn write_protect(&self, address: u64, len_bytes: u64) -> Result<(), SysError> {
        let mut protect = uffdio_writeprotect {
            range: range(address, len_bytes),
            mode: WRITEPROTECT_MODE_WP,
        };
        loop {
            // SAFETY: the opcode and the type belong together. Content is not changed.
            match unsafe {
                ioctl(
                    &self.fd,
                    Updater::<UFFDIO_WRITEPROTECT, _>::new(&mut protect),
                )
            } {
                // The process is changing its mappings at this moment; ioctl_userfaultfd(2).
                Err(Errno::AGAIN) => std::thread::yield_now(),
                result => {
                    return result.map_err(|errno| SysError::failed("UFFDIO_WRITEPROTECT", errno));
                }
            }
        }
    }

    /// Places those pages of `data`, from `start` on, where the page table holds nothing, each in one
    /// step; how many these were. The range is registered.
    ///
    /// # Errors
    /// When the range is not registered or not mapped (`ENOENT`), or there is no memory.
    ///
    /// # Safety
    /// The userfaultfd is this process's, and no reference to any of these pages is alive.
    pub unsafe fn copy_absent(&self, start: *mut u8, data: &[u8]) -> Result<PageCount, SysError> {
        let mut at = 0;
        let mut placed = 0;
        while at < data.len() {
            let mut copy = uffdio_copy {
                dst: start.addr() as u64 + at as u64,
                src: data.as_ptr().addr() as u64 + at as u64,
                len: (data.len() - at) as u64,
                mode: 0,
                copy: 0,
            };
            // SAFETY: the opcode and the type belong together; `data` has `len` bytes from `src` on,
            // and the caller vouches for what is written.
            let result = unsafe { ioctl(&self.fd, Updater::<UFFDIO_COPY, _>::new(&mut copy)) };
            // What was placed before it stopped, or a negative error.
            let bytes = usize::try_from(copy.copy).unwrap_or(0);
            at += bytes;
            placed += bytes / PAGE_BYTES;
            match result {
                Ok(()) => {}
                Err(_) if bytes > 0 => {}
                Err(Errno::EXIST) => at += PAGE_BYTES,
                // The process is changing its mappings at this moment.
                Err(Errno::AGAIN) => std::thread::yield_now(),
                Err(errno) => return Err(SysError::failed("UFFDIO_COPY", errno)),
            }
        }
        Ok(PageCount(placed as u64))
    }

    /// Lifts the protection of a range and forgets it.
    ///
    /// # Errors
    /// When the range is not mapped (`EINVAL`) or the process is gone (`ESRCH`).
    pub fn unregister(&self, address: u64, len_bytes: u64) -> Result<(), SysError> {
        let mut range = range(address, len_bytes);
        // SAFETY: the opcode and the type belong together. Content is not changed.
        unsafe { ioctl(&self.fd, Updater::<UFFDIO_UNREGISTER, _>::new(&mut range)) }
            .map_err(|errno| SysError::failed("UFFDIO_UNREGISTER", errno))
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn range(start: u64, len: u64) -> uffdio_range {
    uffdio_range { start, len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux_raw_sys::ioctl as header;

    #[test]
    fn the_opcodes_are_those_of_the_kernel_headers() {
        assert_eq!(UFFDIO_API, header::UFFDIO_API);
        assert_eq!(UFFDIO_REGISTER, header::UFFDIO_REGISTER);
        assert_eq!(UFFDIO_UNREGISTER, header::UFFDIO_UNREGISTER);
        assert_eq!(UFFDIO_COPY, header::UFFDIO_COPY);
        assert_eq!(UFFDIO_WRITEPROTECT, header::UFFDIO_WRITEPROTECT);
    }

    #[test]
    fn features_are_agreed_on_once() {
        let uffd = match Userfaultfd::open() {
            Ok(uffd) => uffd,
            Err(error) => {
                eprintln!("SKIP: {error}");
                return;
            }
        };
        if let Err(error) = uffd.enable_async_write_protect() {
            eprintln!("SKIP: {error}");
            return;
        }
        let again = uffd.enable_async_write_protect().unwrap_err().to_string();
        assert!(again.contains("Linux 6.7"), "{again}");
        assert!(again.contains(&kernel_release()), "{again}");
    }

    #[test]
    fn memory_that_is_not_mapped_cannot_be_registered() {
        let Ok(uffd) = Userfaultfd::open() else {
            eprintln!("SKIP: no userfaultfd");
            return;
        };
        if let Err(error) = uffd.enable_async_write_protect() {
            eprintln!("SKIP: {error}");
            return;
        }
        let error = uffd.register_write_protect(4096, 4096).unwrap_err();
        assert!(
            error.to_string().starts_with("UFFDIO_REGISTER failed"),
            "{error}"
        );
    }
}
