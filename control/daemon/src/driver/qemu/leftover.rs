//! QEMUs that a daemon which was killed has left behind.

use std::fs;

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
    let monitor = format!("socket,id=charmonitor,path={},", start.monitor().display());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Held before its command line is read, so that it is the same process that is killed.
        let Ok(process) = open_process(pid) else {
            continue;
        };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut args = line.split(|byte| *byte == 0);
        if args.any(|arg| arg.starts_with(monitor.as_bytes())) {
            let _already_gone = pidfd_send_signal(&process, Signal::KILL);
            let ended = has_ended(&process, KILL_PATIENCE);
            if !ended.unwrap_or(false) {
                warn!(pid, "a process that was left behind does not end");
            }
        }
    }
}
