//! Stands in front of `pthread_sigmask` and keeps the throttle's signal unblocked.
//!
//! QEMU blocks all signals around the creation of a thread, and the thread inherits that. A
//! vCPU must hear one of them to be stopped, [`SIGNAL`], so that one is left out of whatever is
//! to be blocked. Nobody else uses it, and it is never sent to a thread that is not throttled:
//! for all other threads nothing changes. Outside the creation of threads QEMU hardly calls
//! this, and then it is the system call that costs.

#![allow(unsafe_code, reason = "sets signal masks, and defines a C function")]

use std::io;

use libc::{c_int, sigset_t};

/// The throttle's signal: `SIGRTMAX - 3`, of the numbers that the C library leaves to programs.
///
/// QEMU's system emulators use no real-time signal: their vCPUs are kicked with SIGUSR1. High,
/// because programs and libraries that take one mostly count from `SIGRTMIN` up.
pub(crate) const SIGNAL: c_int = 61;

/// Signals 32 and 33, which the C library keeps for cancellation and setuid: a program cannot
/// block them (nptl(7), "NPTL and signals").
const LIBRARY_MASK: u64 = 0b11 << 31;

const OWN_MASK: u64 = mask_of(SIGNAL);

/// The set of one signal as the kernel has it: bit 0 is signal 1.
pub(crate) const fn mask_of(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// Replaces pthread_sigmask(3).
///
/// # Safety
/// That of pthread_sigmask(3): `set` and `previous` are null or point to signal sets.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    set: *const sigset_t,
    previous: *mut sigset_t,
) -> c_int {
    let mask = if set.is_null() {
        0
    } else {
        // SAFETY: the caller's set is longer than the 64 bits that the kernel knows of.
        let wanted = unsafe { set.cast::<u64>().read_unaligned() } & !LIBRARY_MASK;
        if how == libc::SIG_UNBLOCK {
            wanted
        } else {
            wanted & !OWN_MASK
        }
    };
    let set = if set.is_null() {
        std::ptr::null()
    } else {
        &raw const mask
    };
    // SAFETY: the location of this thread's errno is always valid.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; this function returns its error and leaves errno alone.
    let before = unsafe { *errno };
    // SAFETY: `set` is null or points to `mask`, `previous` is the caller's; the kernel reads
    // and writes 8 bytes of each, the size of its sets, which is the last argument.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, set, previous, 8_usize) };
    if result == 0 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { std::mem::replace(&mut *errno, before) }
}

/// Blocks all signals for this thread and those that it creates; what was blocked before. The
/// throttle's own stays: nobody sends it to these.
pub(crate) fn block_all() -> io::Result<sigset_t> {
    // SAFETY: sigfillset initialises `all`, and pthread_sigmask reads it and fills
    // `previous`; both are plain sets of bits, valid when zero.
    unsafe {
        let mut all: sigset_t = std::mem::zeroed();
        let mut previous: sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut previous) {
            0 => Ok(previous),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// Blocks what was blocked before.
pub(crate) fn restore(previous: &sigset_t) {
    // SAFETY: `previous` is a mask that pthread_sigmask filled in. With SIG_SETMASK and valid
    // pointers it cannot fail.
    unsafe {
        libc::pthread_sigmask(
            libc::SIG_SETMASK,
            &raw const *previous,
            std::ptr::null_mut(),
        );
    }
}
