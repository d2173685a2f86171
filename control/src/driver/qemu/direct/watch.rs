//! Noticing at once that a QEMU has died.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long after QEMU's monitor is gone the kernel may say that its process has ended.
pub(super) const END_IS_SEEN: Duration = Duration::from_millis(100);

/// A process that is watched; never mistaken for a later one with the same number.
#[derive(Debug)]
pub(super) struct ProcessWatch {
    pidfd: OwnedFd,
    pid: u32,
}

impl ProcessWatch {
    /// Watches the process `pid`.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn new(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            pidfd: pidfd_open(raw, PidfdFlags::empty())?,
            pid,
        })
    }

    /// Whether it still runs; one system call.
    pub(super) fn is_alive(&self) -> bool {
        let mut ready = [PollFd::new(&self.pidfd, PollFlags::IN)];
        // A pidfd becomes readable when its process ends (pidfd_open(2)).
        !matches!(poll(&mut ready, Some(&Timespec::default())), Ok(1))
    }

    /// Whether it ends within `limit`, or has ended.
    pub(super) fn ends_within(&self, limit: Duration) -> bool {
        let mut ready = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let limit = Timespec::try_from(limit).unwrap_or_default();
        matches!(poll(&mut ready, Some(&limit)), Ok(1))
    }

    /// The process.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn an_ended_process_is_noticed() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let watch = ProcessWatch::new(child.id()).unwrap();
        assert!(watch.is_alive() && !watch.ends_within(Duration::from_millis(1)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!watch.is_alive() && watch.ends_within(Duration::ZERO));
    }
}
