//! QEMUs that a daemon before this one has left behind, by their command lines.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use tracing::warn;

use super::Start;
use super::process::{KILL_PATIENCE, has_ended, open_process};

/// Kills every process that was started with the monitor of `start`, and waits for its end: a daemon
/// that was killed while it started a QEMU has left it behind, with a monitor that may not listen yet.
///
/// All of them have their own command line by now: a child that has not become QEMU yet still has the
/// killed daemon's lock on the store, without which nobody comes here.
pub fn end_leftover(start: &Start) {
    let processes = processes(start).unwrap_or_else(|error| {
        warn!(%error, "it is not known whether a process was left behind");
        Vec::new()
    });
    for (pid, process) in processes {
        let _already_gone = pidfd_send_signal(&process, Signal::KILL);
        let ended = has_ended(&process, KILL_PATIENCE);
        if !ended.unwrap_or(false) {
            warn!(pid, "a process that was left behind does not end");
        }
    }
}

/// Whether a process is there that was started with the monitor of `start`.
///
/// # Errors
/// When it cannot be found out, for want of descriptors for example.
pub fn is_there(start: &Start) -> io::Result<bool> {
    processes(start).map(|processes| !processes.is_empty())
}

fn processes(start: &Start) -> io::Result<Vec<(u32, OwnedFd)>> {
    let monitor = format!("socket,id=charmonitor,path={},", start.monitor().display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if !has_argument(pid, &monitor)? {
            continue;
        }
        match open_process(pid) {
            // Read again while it is held, so that it is the same process.
            Ok(process) => {
                if has_argument(pid, &monitor)? {
                    found.push((pid, process));
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether an argument of a process begins so. One that has ended has none.
fn has_argument(pid: u32, beginning: &str) -> io::Result<bool> {
    let line = match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => line,
        // Another user's is none of ours.
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let mut args = line.split(|byte| *byte == 0);
    Ok(args.any(|arg| arg.starts_with(beginning.as_bytes())))
}

fn is_gone(error: &io::Error) -> bool {
    let gone = Errno::from_io_error(error) == Some(Errno::SRCH);
    gone || error.kind() == io::ErrorKind::NotFound
}
