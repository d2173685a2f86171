//! The process that a monitor belongs to.
//!
//! QEMU names the threads of its vCPUs, and `/proc/TID/status` names the process of each (proc(5),
//! `Tgid`). That is QEMU's word alone, and a hostile one could name another guest's: the process
//! must also be the one that made the socket listen, by the kernel's word (`SO_PEERCRED`), or the
//! child of that one, since managers create sockets for the QEMUs they start. A TCP socket has
//! no such credentials.

use serde_json::Value;

use super::client::Qmp;
use super::error::QmpError;

impl Qmp {
    /// Process id of the QEMU behind the monitor, in our pid namespace.
    ///
    /// All vCPU threads must exist here and be of one process. A QEMU in another pid namespace
    /// names threads that are not ours: when such a number is taken here by another program the
    /// answer is wrong, so whoever maps its memory compares addresses too
    /// (as [`Guest`](crate::driver::qemu::Guest) does).
    ///
    /// # Errors
    /// When QEMU names no threads, or they are not to be found, or not those of one process, or
    /// the socket is of none of its making.
    pub fn peer_pid(&self) -> Result<u32, QmpError> {
        let error = |reason: String| QmpError::Process {
            address: self.address().to_string(),
            reason,
        };
        let cpus = self.execute("query-cpus-fast", Value::Null)?;
        let mut pid = None;
        for cpu in cpus.as_array().into_iter().flatten() {
            let thread = cpu.get("thread-id").and_then(Value::as_u64);
            let thread = thread.ok_or_else(|| error("query-cpus-fast names no thread".into()))?;
            let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
            let owner = status.ok().as_deref().and_then(thread_group);
            let owner = owner.ok_or_else(|| {
                error(format!(
                    "its vCPU thread {thread} is not on this host or in another pid namespace; \
                     run pagelift where QEMU runs"
                ))
            })?;
            if *pid.get_or_insert(owner) != owner {
                return Err(error(
                    "its vCPU threads are of several processes here: QEMU runs in another pid \
                     namespace; run pagelift inside it"
                        .into(),
                ));
            }
        }
        let pid = pid.ok_or_else(|| error("it has no vCPU".into()))?;
        let Some(listener) = self.listener().map_err(|e| error(e.to_string()))? else {
            return Ok(pid);
        };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if listener != pid && field(&status, "PPid:") != Some(listener) {
            return Err(error(format!(
                "it says that it is process {pid}, but the socket is that of process {listener}, \
                 which is neither that process nor its parent; name a monitor that this QEMU \
                 made itself (-qmp unix:PATH,server=on,wait=off)"
            )));
        }
        Ok(pid)
    }
}

/// The `Tgid` of a `/proc/TID/status`.
fn thread_group(status: &str) -> Option<u32> {
    field(status, "Tgid:")
}

/// A number of a `/proc/TID/status`.
fn field(status: &str, name: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::thread_group;

    #[test]
    fn own_thread_group() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert_eq!(thread_group(&status), Some(std::process::id()));
        assert_eq!(thread_group("Name:\tx\nState:\tS\n"), None);
    }
}
