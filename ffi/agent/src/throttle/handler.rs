//! The throttle's signal handler.

#![allow(unsafe_code, reason = "installs a signal handler")]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, c_void, siginfo_t};

use super::{big_lock, slot};
use crate::signal_mask::SIGNAL;

/// Installs the handler, once for the life of the process: were it ever removed, a signal on
/// its way would end QEMU.
///
/// # Errors
/// When another has a handler for the signal.
pub(super) fn install() -> Result<(), String> {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let failed = || {
        let error = io::Error::last_os_error();
        format!("no handler for signal {SIGNAL}: {error}")
    };
    // SAFETY: all zeros is a valid sigaction.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: sigaction(2) fills in `before`.
    if unsafe { libc::sigaction(SIGNAL, std::ptr::null(), &raw mut before) } != 0 {
        return Err(failed());
    }
    if before.sa_sigaction != libc::SIG_DFL {
        return Err(format!(
            "signal {SIGNAL} has another handler in this QEMU; find the library that uses it"
        ));
    }
    big_lock::find();
    // SAFETY: as above. The empty mask lets QEMU's own kick end a stop.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_signal;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the handler does nothing that must not be done in one, see the module's head.
    if unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(failed());
    }
    INSTALLED.store(true, Ordering::Relaxed);
    Ok(())
}

extern "C" fn on_signal(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a siginfo_t that lives through this call.
    let info = unsafe { &*info };
    // The same signal from elsewhere, sent by hand, means nothing.
    if info.si_code != libc::SI_TIMER {
        return;
    }
    // SAFETY: a timer's signal carries the value that the timer was created with.
    let index = unsafe { info.si_value() }.sival_ptr.addr();
    if let Some(slot) = slot::slot_at(index) {
        // SAFETY: the location of this thread's errno is always valid. The interrupted code
        // may be about to read it.
        let errno = unsafe { *libc::__errno_location() };
        slot.on_timer();
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
    }
}
