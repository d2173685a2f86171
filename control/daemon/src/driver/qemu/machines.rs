//! The version of a QEMU program, and the machine types that names without a version stand for.

use std::collections::HashMap;
use std::io::Read;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a program may take to say it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of what it says is read, in bytes.
const SAID_BYTES: usize = 1 << 20;

/// What `--version` of the program `emulator` says, as major * 1000000 + minor * 1000 + micro; `None` if it
/// cannot be asked.
pub fn version(emulator: &str) -> Option<u64> {
    version_of(&ask(emulator, &["--version"], PATIENCE)?)
}

/// What `program` prints until it closes its output; `None` if it does not do so in time, or cannot be
/// started. It is killed afterwards.
fn ask(program: &str, args: &[&str], patience: Duration) -> Option<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let said = child
        .stdout
        .take()
        .and_then(|stdout| read(stdout, Instant::now() + patience));
    let _already_gone = child.kill();
    let _reaped = child.wait();
    said
}

fn read(mut from: ChildStdout, deadline: Instant) -> Option<String> {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while said.len() < SAID_BYTES {
        let left = deadline.checked_duration_since(Instant::now())?;
        let left = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&from, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
        }
        match from.read(&mut buffer).ok()? {
            0 => break,
            count => said.extend_from_slice(&buffer[..count]),
        }
    }
    Some(String::from_utf8_lossy(&said).into_owned())
}

fn version_of(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("version ")?;
    let mut parts = rest
        .split(|char: char| !char.is_ascii_digit())
        .map(str::parse);
    let mut part = || parts.next()?.ok();
    let (major, minor, micro): (u64, u64, u64) = (part()?, part()?, part()?);
    Some(major * 1_000_000 + minor * 1000 + micro)
}

/// Answers of QEMUs about their machine types; each is asked once.
#[derive(Debug, Default)]
pub struct Machines {
    known: Mutex<HashMap<String, HashMap<String, String>>>,
}

impl Machines {
    /// The versioned machine type that `machine` is another name for, by the QEMU `emulator`; `None`
    /// if it is none, or QEMU cannot be asked.
    pub fn resolve(&self, emulator: &str, machine: &str) -> Option<String> {
        if let Some(known) = self.known().get(emulator) {
            return known.get(machine).cloned();
        }
        // Nobody waits meanwhile: the program may be any that a client names.
        let aliases = aliases(&ask(emulator, &["-machine", "help"], PATIENCE)?);
        let of = aliases.get(machine).cloned();
        self.known().insert(emulator.to_owned(), aliases);
        of
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, HashMap<String, String>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names and what they stand for: `pc   Standard PC (alias of pc-i440fx-10.0)`.
fn aliases(help: &str) -> HashMap<String, String> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let (_, of) = rest.split_once("(alias of ")?;
        Some((name.to_owned(), of.split(')').next()?.to_owned()))
    };
    help.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_says_nothing_is_not_waited_for() {
        let hangs = |script: &str| ask("sh", &["-c", script], Duration::from_millis(200));
        assert_eq!(hangs("echo said; exec sleep 1000"), None);
        assert_eq!(hangs("exec >&-; exec sleep 1000"), Some(String::new()));
        let long = ask("yes", &[], Duration::from_secs(60)).unwrap();
        assert!(long.len() >= SAID_BYTES);
        let said = ask("echo", &["version 1.2.3"], Duration::from_secs(60));
        assert_eq!(version_of(&said.unwrap()), Some(1_002_003));
        assert_eq!(ask("/nonexistent", &[], Duration::from_secs(60)), None);
    }

    #[test]
    fn versions() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert_eq!(version_of(text), Some(10_000_002));
        assert_eq!(version_of("QEMU"), None);
    }

    #[test]
    fn other_names() {
        let help = "Supported machines are:\n\
            microvm              microvm (i386)\n\
            pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-10.0)\n\
            pc-i440fx-10.0       Standard PC (i440FX + PIIX, 1996) (default)\n\
            q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)\n";
        let aliases = aliases(help);
        assert_eq!(aliases["pc"], "pc-i440fx-10.0");
        assert_eq!(aliases["q35"], "pc-q35-10.0");
        assert_eq!(aliases.len(), 2);
    }
}
