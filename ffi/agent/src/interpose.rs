//! Stands in front of `mmap` and `mmap64` and notices guest RAM being mapped.
//!
//! The call goes to the kernel directly rather than to the next definition: `dlsym` may
//! allocate, and the earliest calls come before the dynamic linker is ready for it. What
//! follows a successful mapping of a large writable shared file is outside any fast path; an
//! allocator never makes such a mapping, so that code may allocate.

#![allow(unsafe_code, reason = "defines C functions and makes a system call")]

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_void, off_t, size_t};

/// Shared files below this size are no guest RAM: rings, framebuffers, firmware.
const RAM_BYTES_MIN: usize = 1 << 20;

/// Process in which the agent has started, 0 for none.
///
/// The pid rather than a flag: a child that forked off afterwards has no agent thread, and
/// gets its own agent should it map guest RAM.
static STARTED_IN_PID: AtomicU32 = AtomicU32::new(0);

/// Replaces mmap(2).
///
/// # Safety
/// That of mmap(2): a fixed address may replace mappings in use.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller's promise about the arguments is passed on unchanged.
    unsafe { map(address, length, protection, flags, fd, offset) }
}

/// Replaces mmap64(3), which on 64-bit systems is the same function.
///
/// # Safety
/// That of mmap(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mmap64(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller's promise about the arguments is passed on unchanged.
    unsafe { map(address, length, protection, flags, fd, offset) }
}

/// # Safety
/// That of mmap(2).
unsafe fn map(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: these are the six arguments of mmap(2), for which the caller answers; `syscall`
    // sets errno as mmap would.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mmap,
            address,
            length,
            protection,
            flags,
            fd,
            offset,
        )
    };
    if length >= RAM_BYTES_MIN && result != -1 && is_writable_shared_file(protection, flags) {
        start_once();
    }
    // The kernel returns an address, or -1, which is MAP_FAILED.
    std::ptr::with_exposed_provenance_mut(result as usize)
}

fn is_writable_shared_file(protection: c_int, flags: c_int) -> bool {
    let kind = flags & libc::MAP_TYPE;
    (kind == libc::MAP_SHARED || kind == libc::MAP_SHARED_VALIDATE)
        && flags & libc::MAP_ANONYMOUS == 0
        && protection & libc::PROT_WRITE != 0
}

/// Starts the agent if it has not started in this process.
#[cold]
fn start_once() {
    let pid = std::process::id();
    let previous = STARTED_IN_PID.load(Ordering::Relaxed);
    let is_first = previous != pid
        && STARTED_IN_PID
            .compare_exchange(previous, pid, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
    if is_first {
        // SAFETY: the location of this thread's errno is always valid. The caller of a
        // successful mmap may still rely on an errno from before.
        let errno = unsafe { *libc::__errno_location() };
        // The panic's message went to standard error; QEMU goes on without an agent.
        let _ = catch_unwind(|| crate::server::start(pid));
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
    }
}
