//! The target's side: what must be there, and the QEMU that is started for a guest that comes.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pagelift_engine::plain_text;
use pagelift_engine::sys::random_number;
use serde::{Deserialize, Serialize};

use super::{GuestCommand, RemoteError, message};
use crate::qmp::Address;

/// How the folder of an arrival begins.
pub(super) const ARRIVAL_FOLDER: &str = "pagelift-arrival";

/// How long QEMU may take until its monitor answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the source is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// What this host lacks. With nothing missing, QEMU waits for the guest.
    pub(super) missing: Vec<String>,
}

/// A QEMU that was started for a guest that comes. It is killed with this value, unless it is
/// [kept](Self::keep).
#[derive(Debug)]
pub struct Arrival {
    qemu: Child,
    /// With its monitor and its output.
    folder: PathBuf,
    is_kept: bool,
}

impl Arrival {
    /// Takes a request from standard input, starts the QEMU it asks for by `pagelift run`, and answers
    /// on standard output. `pagelift` is that program.
    ///
    /// # Errors
    /// When this host lacks something, or QEMU does not start; the source knows it as well.
    pub fn begin(pagelift: &Path) -> Result<Self, RemoteError> {
        let failed = |why: String| RemoteError::Arrival(why);
        let guest: GuestCommand = message::read(&mut Unbuffered)
            .map_err(|error| failed(format!("no request came by standard input: {error}")))?;
        let begun = match missing(&guest, pagelift) {
            missing if missing.is_empty() => Self::start(&guest, pagelift).map_err(|why| vec![why]),
            missing => Err(missing),
        };
        let missing = begun.as_ref().err().cloned().unwrap_or_default();
        let answer = Answer { missing };
        message::write(&mut Unbuffered, &answer).map_err(|error| failed(error.to_string()))?;
        begun.map_err(|missing| failed(missing.join("; ")))
    }

    /// Its monitor.
    pub fn qmp(&self) -> Address {
        Address::Unix(self.folder.join("qmp"))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// The guest is in it, or may be: it stays.
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    fn start(guest: &GuestCommand, pagelift: &Path) -> Result<Self, String> {
        let words = |error: io::Error| error.to_string();
        // Never one that is there: it may be that of a guest which has arrived and runs.
        let number = random_number().map_err(|error| error.to_string())?;
        let folder = std::env::temp_dir().join(format!("{ARRIVAL_FOLDER}.{number:032x}"));
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(words)?;
        let log = File::create(folder.join("qemu.log")).map_err(words)?;
        let mut command = Command::new(pagelift);
        command.args(["run", "--detach"]);
        if let Some(dir) = &guest.run.ram_dir {
            command.arg("--ram-dir").arg(dir);
        }
        command.arg("--").args(&guest.run.command);
        command.args(["-incoming", "defer", "-qmp"]);
        // A comma in a value is written twice (QEMU's option syntax).
        let socket = folder.join("qmp").display().to_string().replace(',', ",,");
        command.arg(format!("unix:{socket},server=on,wait=off"));
        command.current_dir(&guest.dir).stdin(Stdio::null());
        command.stderr(log.try_clone().map_err(words)?).stdout(log);
        let qemu = command.spawn().map_err(|error| {
            let _ = fs::remove_dir_all(&folder);
            words(error)
        })?;
        let mut arrival = Self {
            qemu,
            folder,
            is_kept: false,
        };
        arrival.wait_ready()?;
        Ok(arrival)
    }

    /// Waits until the monitor takes connections.
    fn wait_ready(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(self.folder.join("qmp")).is_err() {
            let ended = self.qemu.try_wait().map_err(|error| error.to_string())?;
            if let Some(status) = ended {
                let said = fs::read(self.folder.join("qemu.log")).unwrap_or_default();
                let said = String::from_utf8_lossy(&said);
                return Err(format!(
                    "QEMU did not start ({status}): {}",
                    plain_text::line(said.trim())
                ));
            }
            if Instant::now() >= until {
                return Err(format!(
                    "QEMU's monitor does not answer within {PATIENCE:?}"
                ));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // It may have ended.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What of `guest` this host lacks, in words.
fn missing(guest: &GuestCommand, pagelift: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    if !is_program(pagelift) {
        missing.push(format!("the program {}", pagelift.display()));
    }
    match guest.run.command.first() {
        Some(qemu) if has_program(qemu, &guest.dir) => {}
        Some(qemu) => missing.push(format!("the program {qemu} (?qemu= names another)")),
        None => missing.push("a command".into()),
    }
    if !guest.dir.is_dir() {
        missing.push(format!(
            "the folder {} (?dir= names another)",
            guest.dir.display()
        ));
    }
    for dir in guest
        .run
        .ram_dir
        .iter()
        .filter(|dir| !guest.dir.join(dir).is_dir())
    {
        missing.push(format!("the folder {} for memory", dir.display()));
    }
    for file in &guest.files {
        if let Err(error) = File::open(guest.dir.join(file)) {
            missing.push(match error.kind() {
                io::ErrorKind::NotFound => format!("the file {}", file.display()),
                _ => format!("the file {} ({error})", file.display()),
            });
        }
    }
    missing
}

/// Whether `name` is a program, in PATH or as seen from `dir`.
fn has_program(name: &str, dir: &Path) -> bool {
    if name.contains('/') {
        return is_program(&dir.join(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| is_program(&folder.join(name)))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Standard input and output, of which no byte is read too much.
struct Unbuffered;

impl Read for Unbuffered {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(io::stdin(), out)?)
    }
}

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::RunCommand;

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.img"), "").unwrap();
        let guest = GuestCommand {
            run: RunCommand {
                command: vec!["qemu-of-nowhere".into()],
                ram_dir: Some("ram".into()),
            },
            dir: folder.path().to_owned(),
            files: ["a.img", "b.img", "/nowhere/c.img"]
                .map(PathBuf::from)
                .into(),
        };
        let words = missing(&guest, Path::new("/nowhere/pagelift")).join("; ");
        for part in [
            "/nowhere/pagelift",
            "qemu-of-nowhere",
            "ram",
            "b.img",
            "/nowhere/c.img",
        ] {
            assert!(words.contains(part), "{words}");
        }
        assert!(!words.contains("a.img"), "{words}");
        let present = GuestCommand {
            run: RunCommand {
                command: vec!["sh".into()],
                ram_dir: None,
            },
            files: vec!["a.img".into()],
            ..guest
        };
        assert!(missing(&present, Path::new("/bin/sh")).is_empty());
    }
}
