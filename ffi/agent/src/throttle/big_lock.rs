//! QEMU's big lock: whether the calling thread holds it.
//!
//! QEMU 9.0 and later have `bql_locked` for that, earlier ones `qemu_mutex_iothread_locked`.

#![allow(unsafe_code, reason = "looks up and calls a function of QEMU's")]

use std::mem::transmute;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::c_void;

/// QEMU's function that tells whether the calling thread holds the big lock, or null.
static HOLDS_BIG_LOCK: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Whether this thread holds the lock; no if QEMU does not tell.
pub(super) fn is_held() -> bool {
    let function = HOLDS_BIG_LOCK.load(Ordering::Relaxed);
    if function.is_null() {
        return false;
    }
    // SAFETY: QEMU declares the function of either name as `bool f(void)`. It reads a
    // variable of the calling thread and nothing else, which may be done anywhere.
    unsafe { transmute::<*mut c_void, extern "C" fn() -> bool>(function)() }
}

/// Looks QEMU's function up; without it no thread is known to hold the lock.
pub(super) fn find() {
    for name in [c"bql_locked", c"qemu_mutex_iothread_locked"] {
        // SAFETY: the name ends with a zero; RTLD_DEFAULT searches what is loaded already.
        let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        if !function.is_null() {
            HOLDS_BIG_LOCK.store(function, Ordering::Relaxed);
            break;
        }
    }
}
