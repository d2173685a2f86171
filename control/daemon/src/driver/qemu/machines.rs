//! What machine types without a version stand for, as QEMU says it.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Answers of QEMUs, which are asked once each.
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
