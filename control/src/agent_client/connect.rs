//! Reaching the agent: through QEMU's descriptors, as the kernel lets a debugger look at them.
//!
//! The agent's socket has no name. Its inode is one of QEMU's descriptors, and the link of that
//! in `/proc/PID/fd` can be connected to by whoever may follow it: `PTRACE_MODE_READ`, ptrace(2),
//! which takes no capability for a QEMU of our own user in our own user namespace. It works from
//! any network namespace and needs no ptrace-attach, which many systems keep for parents (Yama)
//! or for containers with CAP_SYS_PTRACE.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pagelift_agent_protocol::{REMOVED, SOCKET_FILE};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::TIMEOUT;
use super::error::AgentError;

/// A connection to the agent in the process `pid`.
pub(super) fn to_agent(pid: u32) -> Result<OwnedFd, AgentError> {
    let io_error = |errno: Errno| AgentError::Io {
        pid,
        source: errno.into(),
    };
    let mut other = None;
    for path in sockets(pid)? {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(io_error)?;
        // The limit for sending holds for connecting to a full backlog as well, socket(7).
        set_socket_timeout(&socket, Timeout::Send, Some(TIMEOUT)).map_err(io_error)?;
        let address = SocketAddrUnix::new(&path).map_err(io_error)?;
        match connect(&socket, &address) {
            Ok(()) => {}
            // Its agent has ended, or the descriptor has.
            Err(Errno::CONNREFUSED | Errno::NOENT) => continue,
            Err(Errno::ACCESS) => return Err(not_permitted(pid)),
            Err(Errno::AGAIN) => return Err(AgentError::Timeout { pid }),
            Err(errno) => return Err(io_error(errno)),
        }
        let peer = socket_peercred(&socket).map_err(io_error)?;
        // The kernel says 0 for a process outside this pid namespace; `pid` is none.
        match u32::try_from(peer.pid.as_raw_pid()).unwrap_or(0) {
            holder if holder == pid => return Ok(socket),
            holder => other = Some(holder),
        }
    }
    Err(match other {
        Some(holder) => AgentError::WrongProcess { pid, holder },
        None => AgentError::NoAgent { pid },
    })
}

/// The descriptors of process `pid` that may be the agent's socket; one, ordinarily.
fn sockets(pid: u32) -> Result<Vec<PathBuf>, AgentError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => AgentError::NoProcess { pid },
        io::ErrorKind::PermissionDenied if has_ended(pid) => AgentError::NoProcess { pid },
        io::ErrorKind::PermissionDenied => not_permitted(pid),
        _ => AgentError::Io { pid, source: error },
    };
    let end = format!("/{SOCKET_FILE}{REMOVED}");
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match fs::read_link(&path) {
            Ok(target) if target.as_os_str().to_string_lossy().ends_with(&end) => found.push(path),
            Ok(_) => {}
            // Closed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(found)
}

/// Whether the process has ended, and its parent has not taken note: what it had is root's then.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    // The name before the state is in parentheses, and may have any bytes.
    stat.is_ok_and(
        |stat| matches!(stat.rsplit_once(") "), Some((_, rest)) if rest.starts_with('Z')),
    )
}

fn not_permitted(pid: u32) -> AgentError {
    let process = Path::new("/proc").join(pid.to_string());
    let user = fs::metadata(process).ok().map(|process| process.uid());
    AgentError::NotPermitted { pid, user }
}
