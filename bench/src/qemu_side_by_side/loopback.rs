//! A network of our own, so that its loopback counts our bytes and nobody else's.

#![allow(
    unsafe_code,
    reason = "unshare(2) may break programs that share descriptors between threads"
)]

use std::fs;
use std::process::Command;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The loopback device, ours alone or the machine's.
#[derive(Debug)]
pub(crate) struct Loopback {
    own: bool,
}

impl Loopback {
    /// Moves this thread, and all processes and threads that it starts from now on, into a
    /// network namespace with nothing but a loopback (network_namespaces(7)).
    ///
    /// Where that is not allowed it says so, and bytes are not counted.
    pub(crate) fn enter() -> Self {
        // SAFETY: the table of descriptors is not unshared.
        let entered = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        let up = || {
            Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
        };
        let own = match entered {
            Ok(()) => match up() {
                Ok(status) if status.success() => true,
                _ => panic!("`ip link set lo up` failed: install iproute2"),
            },
            Err(error) => {
                eprintln!("loopback bytes are not counted: unshare(CLONE_NEWNET): {error}");
                false
            }
        };
        Self { own }
    }

    /// Bytes that the loopback has carried so far, headers included (proc_pid_net(5)).
    pub(crate) fn bytes(&self) -> Option<u64> {
        let text = fs::read_to_string("/proc/thread-self/net/dev").ok()?;
        let device = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("lo:"))?;
        let received = device.split_whitespace().next()?.parse().ok()?;
        self.own.then_some(received)
    }
}
