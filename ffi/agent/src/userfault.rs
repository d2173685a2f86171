//! Opens a userfaultfd of this process's address space, by the best way the system allows.
//!
//! 1. `USERFAULTFD_IOC_NEW` on /dev/userfaultfd (Linux 6.1): allowed by file permissions;
//! 2. userfaultfd(2): needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1;
//! 3. userfaultfd(2) with `UFFD_USER_MODE_ONLY`: always allowed. Asynchronous write-protect
//!    tracking is resolved by the kernel itself and works with it, even for KVM's writes;
//!    a missing page that the kernel touches is not reported.
//!
//! The descriptor is close-on-exec and non-blocking. No API is negotiated on it.

#![allow(unsafe_code, reason = "userfaultfd has no safe interface in libc")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::c_int;

/// `_IO(0xAA, 0x00)` of linux/userfaultfd.h.
const USERFAULTFD_IOC_NEW: libc::Ioctl = 0xaa00;

/// Of linux/userfaultfd.h.
const UFFD_USER_MODE_ONLY: c_int = 1;

/// An open userfaultfd.
pub(crate) struct Userfault {
    pub(crate) fd: OwnedFd,
    /// Only faults raised in user mode are reported.
    pub(crate) is_user_mode_only: bool,
}

/// Opens one.
///
/// # Errors
/// A text that names what failed and the settings to change.
pub(crate) fn open() -> Result<Userfault, String> {
    let by_device = match open_by_device() {
        Ok(fd) => {
            return Ok(Userfault {
                fd,
                is_user_mode_only: false,
            });
        }
        Err(error) => error,
    };
    let by_call = match open_by_call(0) {
        Ok(fd) => {
            return Ok(Userfault {
                fd,
                is_user_mode_only: false,
            });
        }
        Err(error) => error,
    };
    match open_by_call(UFFD_USER_MODE_ONLY) {
        Ok(fd) => Ok(Userfault {
            fd,
            is_user_mode_only: true,
        }),
        Err(last) => Err(format!(
            "no userfaultfd in process {}: /dev/userfaultfd: {by_device}; userfaultfd(2): \
             {by_call}; with UFFD_USER_MODE_ONLY: {last}. Give QEMU's user access to \
             /dev/userfaultfd (chmod or an ACL), or set sysctl vm.unprivileged_userfaultfd=1, \
             and allow userfaultfd in the container's seccomp profile; the kernel needs \
             CONFIG_USERFAULTFD",
            std::process::id()
        )),
    }
}

fn open_by_device() -> io::Result<OwnedFd> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd")?;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: USERFAULTFD_IOC_NEW takes its flags by value and touches no memory of ours.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) };
    owned(fd)
}

fn open_by_call(extra_flags: c_int) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | extra_flags;
    // SAFETY: userfaultfd(2) takes its flags by value and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    // Descriptors are ints: the kernel returns nothing wider.
    owned(fd as c_int)
}

fn owned(fd: c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
