//! The ioctls of userfaultfd that the tests need, as in linux/userfaultfd.h.

#![allow(unsafe_code, reason = "calls ioctls")]

use std::os::fd::OwnedFd;

use rustix::ioctl::{Updater, ioctl, opcode};

const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const WP_UNPOPULATED: u64 = 1 << 13;
const WP_ASYNC: u64 = 1 << 15;
const REGISTER_MODE_WP: u64 = 1 << 1;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

/// `false` if the kernel lacks the features.
pub(crate) fn negotiate_async_write_protect(fd: &OwnedFd) -> bool {
    let mut api = Api {
        api: 0xaa,
        features: WP_ASYNC | WP_UNPOPULATED | WP_HUGETLBFS_SHMEM,
        ioctls: 0,
    };
    // SAFETY: UFFDIO_API reads and writes one uffdio_api, which `Api` mirrors.
    unsafe {
        let call = Updater::<{ opcode::read_write::<Api>(0xaa, 0x3f) }, Api>::new(&mut api);
        ioctl(fd, call).is_ok()
    }
}

pub(crate) fn register_write_protect(fd: &OwnedFd, start: u64, length: u64) {
    let mut register = Register {
        start,
        length,
        mode: REGISTER_MODE_WP,
        ioctls: 0,
    };
    // SAFETY: UFFDIO_REGISTER reads and writes one uffdio_register, which `Register`
    // mirrors. The range is in QEMU's address space, not in ours.
    unsafe {
        let call =
            Updater::<{ opcode::read_write::<Register>(0xaa, 0x00) }, Register>::new(&mut register);
        ioctl(fd, call).expect("UFFDIO_REGISTER on the guest's RAM");
    }
}
