//! Writing to a pipe that nobody reads, without a signal.
//!
//! A write to such a pipe raises SIGPIPE in the thread that writes, which ends a program that does not
//! ignore it: a hypervisor would die with its guest when `exec:`'s command ends. A socket has a flag against
//! it (`MSG_NOSIGNAL`), a pipe has none, and what the signal does is the program's own affair. So the
//! thread blocks it while it writes, and takes it back if it was raised.

#![allow(unsafe_code, reason = "the mask of signals of this thread")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Calls `write`, which does not raise SIGPIPE where it fails with `EPIPE`. One that was waiting before
/// stays.
///
/// # Errors
/// What `write` gives.
pub(super) fn withheld<T>(write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut pipe = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) makes a whole set, and the others read it. They cannot fail: the number of the
    // signal is one, and so is the way to change the mask.
    unsafe {
        libc::sigemptyset(pipe.as_mut_ptr());
        libc::sigaddset(pipe.as_mut_ptr(), libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, pipe.as_ptr(), before.as_mut_ptr());
    }
    let was_pending = is_pending();
    let result = write();
    let is_broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    if result.as_ref().is_err_and(is_broken) && !was_pending {
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the set and the time are whole, and nothing about the signal is asked for.
        unsafe { libc::sigtimedwait(pipe.as_ptr(), ptr::null_mut(), &raw const now) };
    }
    // SAFETY: the mask was filled by the call that blocked the signal.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    result
}

/// Whether a SIGPIPE waits to be delivered.
fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigpending(2) fills the set, which is read then.
    unsafe {
        libc::sigpending(pending.as_mut_ptr());
        libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs::File;
    use std::io::Write;
    use std::process::Command;

    use super::*;

    /// Set in a process of its own, in which SIGPIPE ends the program, as it does in one of C.
    const DEADLY: &str = "PAGELIFT_TEST_SIGPIPE_IS_DEADLY";

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_and_no_signal() {
        if env::var_os(DEADLY).is_some() {
            // SAFETY: the default action is no function.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
            let (rx, tx) = rustix::pipe::pipe().unwrap();
            drop(rx);
            for _ in 0..2 {
                let error = withheld(|| (&File::from(tx.try_clone().unwrap())).write(b"lost"));
                assert_eq!(error.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
                assert!(!is_pending());
            }
            return;
        }
        let name =
            "byte_stream::sigpipe::tests::a_pipe_that_nobody_reads_is_an_error_and_no_signal";
        let alone = Command::new(env::current_exe().unwrap())
            .args(["--exact", name])
            .env(DEADLY, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&alone.stdout);
        assert!(alone.status.success(), "{}: {said}", alone.status);
        assert!(said.contains("1 passed"), "{said}");
    }
}
