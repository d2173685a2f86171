//! The library preloaded into QEMU: lends a userfaultfd, keeps a rollback
//! script, a lease of the guest's stop and the journal of a migration, and throttles vCPUs.
//!
//! Only a process itself can open a userfaultfd of its address space, and only QEMU's monitor
//! can resume its guest. So pagelift puts this small library into QEMU with `LD_PRELOAD`
//! (`pagelift run -- qemu-system-x86_64 ...`). It holds no engine: dirty pages are tracked,
//! read and sent by the client process, which may be killed at any moment.
//!
//! # Life
//! `interpose` stands in front of `mmap`. When the process first maps a large writable shared
//! file, which is QEMU mapping guest RAM, the agent binds its socket and starts one detached
//! `server` thread. Nothing happens before: programs that QEMU starts never map such a file
//! and stay untouched, and with `-daemonize` QEMU has forked by then, so that the thread
//! lives in the right process. When QEMU answers its first QMP command the socket is there
//! (the monitor's own socket, and with `--preconfig` its answers, come before RAM does). It
//! ends with QEMU; being without a name, it leaves no file.
//!
//! # The userfaultfd
//! GET_USERFAULTFD hands out a fresh one, its API not negotiated. All its ioctls act on the
//! address space it was opened in, whoever calls them: the client negotiates and registers
//! ranges from outside. The agent closes its copy after sending. So the client holds the only
//! reference, and when it dies in whatever way, the kernel releases the userfaultfd, which
//! ends every registration and write protection: QEMU runs on untracked, nothing has to clean
//! up (userfaultfd(2), "close").
//!
//! # The rollback script
//! Before a client changes anything in QEMU, it sets a rollback script, comparable to the last
//! will of MQTT: steps that the agent takes at QEMU's monitor if the connection ends while
//! the script is still set. There are steps that undo a migration and no others, and they are
//! taken at no monitor but this QEMU's own. See `rollback` and `own_monitor`.
//!
//! # The throttle
//! A client that waits for the guest to write less has vCPUs stopped for a share of the time.
//! It is a lease: a client that is gone, or silent for too long, does not leave the guest slow.
//! See `throttle`.
//!
//! # Who may connect
//! Whom the kernel lets look into QEMU: see `door`. A client must check in turn that the process
//! at the other end is the QEMU it meant, since a process may hold a socket of another's.
//!
//! # Invariants
//! - No panic leaves the library; its thread takes no signals of QEMU's. One signal handler is
//!   installed, by the first throttle, for a signal that QEMU does not use.
//! - `mmap` of anything but a large writable shared file costs a few compares and the system
//!   call: no lock, no allocation.
//! - All descriptors are close-on-exec. One client at a time, which loses its place if it says
//!   nothing; memory is bounded by one message
//!   (64 KiB, its header, and one read) and one monitor line (1 MiB), time in a rollback by `rollback::TOTAL`.
//! - The system calls it makes are among those that QEMU's own `-sandbox` leaves it.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod client;
mod door;
mod doubt;
mod fence;
mod interpose;
mod journal;
mod own_monitor;
mod rollback;
mod server;
mod signal_mask;
mod socket;
mod throttle;
mod userfault;

/// Says one line on QEMU's standard error, where it is found in its log.
fn complain(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    // Clients and QEMU have their words in it: one line, which no terminal obeys.
    let text: String = text.to_string().chars().flat_map(escaped).collect();
    // A closed standard error is no reason to fail, so `eprintln`, which panics then, is out.
    let _ = writeln!(std::io::stderr(), "pagelift-agent: {text}");
}

/// A character as it is printed.
fn escaped(character: char) -> impl Iterator<Item = char> {
    let (control, other) = match character.is_control() {
        true => (Some(character.escape_default()), None),
        false => (None, Some(character)),
    };
    control.into_iter().flatten().chain(other)
}
