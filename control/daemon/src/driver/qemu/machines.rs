//! What a QEMU program says of itself: its version, and what machine types without one stand for.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// What `--version` of the program `emulator` says, as major * 1000000 + minor * 1000 + micro; `None` if it
/// cannot be asked.
pub fn version(emulator: &str) -> Option<u64> {
    let output = Command::new(emulator)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    version_of(&String::from_utf8_lossy(&output.stdout))
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
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(emulator) {
            let output = Command::new(emulator)
                .args(["-machine", "help"])
                .stdin(Stdio::null())
                .output()
                .ok()?;
            let aliases = aliases(&String::from_utf8_lossy(&output.stdout));
            known.insert(emulator.to_owned(), aliases);
        }
        known.get(emulator)?.get(machine).cloned()
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
