//! A process that puts quotas back when pagelift is gone, however it went.
//!
//! It is a shell that reads from a pipe whose other end only pagelift has. The kernel closes that
//! end when pagelift dies; the shell then writes what it was given, and ends. The signals that a
//! terminal or an orderly stop sends to all processes do not end it.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Pairs of a file and its text are its arguments. `read` and `printf` are the shell's own, and
/// `printf` writes at once, as the files of a cgroup demand.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
echo
while read -r _; do :; done
while [ $# -gt 1 ]; do
    printf '%s\n' "$2" >"$1"
    shift 2
done
"#;

/// A guard at its post. If it is dropped, it does its work.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    /// Starts one that will make `writes`, in order. When this returns it is ready.
    pub(super) fn start(writes: impl Iterator<Item = (PathBuf, String)>) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "pagelift-guard"]);
        for (path, text) in writes {
            command.arg(path).arg(text);
        }
        let mut child = command
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut ready = [0];
        let said = child
            .stdout
            .take()
            .map_or(Ok(()), |mut stdout| stdout.read_exact(&mut ready));
        let guard = Self(child);
        said.map(|()| guard)
    }

    /// Has it do its work now, and waits until it has ended.
    pub(super) fn finish(self) {}
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It cannot hang: what it reads has ended, and what it writes are a kernel's files.
        let _ = self.0.wait();
    }
}
