//! The system calls of the throttle: a thread's own timer, its clocks, its sleep.
//!
//! They are made directly: the handler of a signal may call nothing that takes a lock, and the
//! C library's timers come with threads of their own. All but [`Timer::new`] are safe in a
//! signal handler, as they touch nothing but their arguments and errno.

#![allow(unsafe_code, reason = "system calls that the standard library lacks")]

use std::io;
use std::sync::atomic::AtomicU32;

use libc::{c_int, c_long, clockid_t, timespec};

use crate::signal_mask::SIGNAL;

const NS_PER_S: u64 = 1_000_000_000;

/// A kernel timer that sends the throttle's signal to one thread: timer_create(2) with
/// `SIGEV_THREAD_ID`. It counts wall-clock time (`CLOCK_MONOTONIC`): timers of a thread's
/// processor time go off with the scheduler's tick, of up to 10 ms. The kernel remembers the
/// thread and not its number, so that a later thread of that number never gets the signal.
#[derive(Clone, Copy)]
pub(super) struct Timer(pub(super) c_int);

impl Timer {
    /// A timer for the thread `tid` of this process, not armed. `cookie` arrives with the
    /// signal.
    ///
    /// # Errors
    /// `EINVAL` if there is no such thread in this process, `EAGAIN` beyond `RLIMIT_SIGPENDING`.
    pub(super) fn new(tid: u32, cookie: usize) -> io::Result<Self> {
        // SAFETY: all zeros is a valid sigevent.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGNAL;
        event.sigev_value.sival_ptr = std::ptr::without_provenance_mut(cookie);
        event.sigev_notify_thread_id = tid.cast_signed();
        let mut id: c_int = 0;
        // SAFETY: the kernel reads the whole `event` and writes the int `id`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_timer_create,
                libc::CLOCK_MONOTONIC,
                &raw const event,
                &raw mut id,
            )
        };
        if result == 0 {
            Ok(Self(id))
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Sends the signal once, in `delay_ns`. A timer that was deleted does not.
    pub(super) fn arm(self, delay_ns: u64) {
        let zero = timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let setting = libc::itimerspec {
            it_interval: zero,
            // Zero would disarm it.
            it_value: to_timespec(delay_ns.max(1)),
        };
        // SAFETY: the kernel reads the whole `setting`; it writes nothing back to null.
        unsafe {
            libc::syscall(
                libc::SYS_timer_settime,
                self.0,
                0,
                &raw const setting,
                std::ptr::null_mut::<libc::itimerspec>(),
            );
        }
    }

    /// Deletes it. A signal already on its way still arrives.
    pub(super) fn delete(self) {
        // SAFETY: timer_delete(2) takes its argument by value.
        unsafe {
            libc::syscall(libc::SYS_timer_delete, self.0);
        }
    }
}

fn to_timespec(ns: u64) -> timespec {
    timespec {
        // 2^64 ns are 2^35 s: no cast loses anything.
        tv_sec: (ns / NS_PER_S).cast_signed(),
        tv_nsec: (ns % NS_PER_S).cast_signed(),
    }
}

fn clock_ns(clock: clockid_t) -> u64 {
    let mut now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock exists everywhere, and `now` is a whole timespec.
    unsafe {
        libc::clock_gettime(clock, &raw mut now);
    }
    now.tv_sec.cast_unsigned() * NS_PER_S + now.tv_nsec.cast_unsigned()
}

/// Time since some moment in the past, in nanoseconds.
pub(super) fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Processor time that this thread has used, in nanoseconds.
pub(super) fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Sleeps until `end_ns` of [`now_ns`], as long as `word` holds `expected`. A wake-up and any
/// signal end it early: futex(2), `FUTEX_WAIT_BITSET`, whose time limit is an absolute one.
pub(super) fn sleep_until(end_ns: u64, word: &AtomicU32, expected: u32) {
    let end = to_timespec(end_ns);
    // SAFETY: `word` and `end` outlive the call; the kernel only reads them.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
            expected,
            &raw const end,
            std::ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        );
    }
}

/// Wakes the thread that sleeps on `word`.
pub(super) fn wake(word: &AtomicU32) {
    // SAFETY: the kernel uses no more than the address of `word`.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            c_int::MAX,
        );
    }
}

/// Whether the thread `tid` belongs to this process: tgkill(2) with no signal.
pub(super) fn thread_exists(tid: u32) -> bool {
    let Ok(tid) = c_int::try_from(tid) else {
        return false;
    };
    // SAFETY: its arguments are plain numbers, and signal 0 is not sent.
    let result: c_long = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, 0) };
    result == 0
}

/// The calling thread's id.
pub(super) fn own_tid() -> u32 {
    // SAFETY: gettid(2) takes nothing and cannot fail.
    unsafe { libc::gettid() }.cast_unsigned()
}
