//! Cutting off a client that hangs: whatever it still holds of QEMU is shut down at QEMU's end.
//!
//! A process that stands still keeps its connections, and goes on where it was when it wakes up. So
//! before the guest goes on without it, its connection to the monitor is shut down, which also makes
//! room for the agent there, and so is the stream of QEMU's migration, which QEMU may be blocked on.
//! The kernel tells which sockets those are: it names the process at their other end.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::own_monitor::duplicate;
use crate::socket;

/// Shuts down what process `pid` has of QEMU: connections to the monitor at `monitor`, and socket
/// pairs that it made.
pub(crate) fn cut_off(pid: libc::pid_t, monitor: &Path) {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return crate::complain(format_args!(
            "/proc is not there: pid {pid}, which hangs, keeps its connections"
        ));
    };
    for entry in entries.flatten() {
        let number = entry.file_name();
        let Some(number) = number.to_str().and_then(|text| text.parse().ok()) else {
            continue;
        };
        // A descriptor that another thread has closed by now is none, and no fault.
        if let Ok(fd) = duplicate(number) {
            shut_down_if_of(fd, pid, monitor);
        }
    }
}

fn shut_down_if_of(fd: OwnedFd, pid: libc::pid_t, monitor: &Path) {
    if socket::is_listening(fd.as_fd()) {
        return;
    }
    let is_of_client = socket::credentials(fd.as_fd()).is_ok_and(|peer| peer.pid == pid);
    if !is_of_client {
        return;
    }
    let stream = UnixStream::from(fd);
    // The agent's own socket has a path as well, and is closed by whoever called.
    let is_meant = stream.local_addr().is_ok_and(|address| {
        address.is_unnamed()
            || address
                .as_pathname()
                .is_some_and(|path| path.file_name() == monitor.file_name())
    });
    if is_meant {
        // What is closed already is as good.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}
