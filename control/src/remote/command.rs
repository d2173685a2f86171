//! The command line that a guest was started with, and the files on it.
//!
//! `pagelift run` changes QEMU's command line (memory in files of this host), so QEMU's own is of no use
//! elsewhere. It leaves the one that it was given in QEMU's environment, which QEMU's user can read
//! (`/proc/PID/environ`, proc(5)).

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::RemoteError;
use super::arrival::ARRIVAL_FOLDER;
use crate::qmp::{Address, Qmp};

/// The environment variable that `pagelift run` leaves.
const VARIABLE: &str = "PAGELIFT_RUN";

/// What `pagelift run` was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCommand {
    /// QEMU and its options.
    pub command: Vec<String>,
    /// `--ram-dir`.
    pub ram_dir: Option<PathBuf>,
}

impl RunCommand {
    /// The variable to leave in QEMU's environment, and its value; `None` if the command is not text.
    pub fn variable(
        command: &[OsString],
        ram_dir: Option<&Path>,
    ) -> Option<(&'static str, String)> {
        let words = command.iter().map(|word| word.to_str().map(str::to_owned));
        let given = Self {
            command: words.collect::<Option<_>>()?,
            ram_dir: ram_dir.map(Path::to_owned),
        };
        Some((VARIABLE, serde_json::to_string(&given).ok()?))
    }

    /// What is in the environment of process `pid`.
    fn of_process(pid: u32) -> Result<Self, RemoteError> {
        let unknown = |why: String| RemoteError::Command(why);
        let environment = fs::read(format!("/proc/{pid}/environ"));
        let environment = environment.map_err(|error| unknown(error.to_string()))?;
        let prefix = format!("{VARIABLE}=");
        let value = environment
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(prefix.as_bytes()));
        let value = value.ok_or_else(|| {
            unknown(
                "it was not started by `pagelift run` of this version; start a QEMU there by hand, \
                 with -incoming defer, and name its monitor: ssh://HOST?qmp=PATH"
                    .into(),
            )
        })?;
        serde_json::from_slice(value).map_err(|error| unknown(error.to_string()))
    }
}

/// How a guest is started elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestCommand {
    /// What `pagelift run` is given there.
    #[serde(flatten)]
    pub run: RunCommand,
    /// Folder that QEMU is started in.
    pub dir: PathBuf,
    /// Files and devices that QEMU opens: they must be there.
    pub files: Vec<PathBuf>,
}

impl GuestCommand {
    /// That of the guest behind the monitor `qmp`.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn of(qmp: &Address) -> Result<Self, RemoteError> {
        let unknown = |why: String| RemoteError::Command(why);
        let pid = Qmp::connect(qmp).and_then(|qmp| qmp.peer_pid());
        let pid = pid.map_err(|error| unknown(error.to_string()))?;
        let mut run = RunCommand::of_process(pid)?;
        run.command = lasting(run.command);
        let dir = fs::read_link(format!("/proc/{pid}/cwd"));
        let dir = dir.map_err(|error| unknown(error.to_string()))?;
        let files = files(&run.command, &|path| is_opened(&dir.join(path)));
        Ok(Self { run, dir, files })
    }
}

/// Whether something is at `path` that a guest has as a disk, a kernel or firmware.
fn is_opened(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() || file.file_type().is_block_device())
}

/// The command without what an arrival has added to it, and what the next one adds.
fn lasting(command: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = command.into_iter().peekable();
    kept.extend(words.next());
    while let Some(word) = words.next() {
        match option(&word) {
            Some("daemonize") => {}
            Some("incoming") => {
                words.next();
            }
            Some("qmp") if words.peek().is_some_and(|at| at.contains(ARRIVAL_FOLDER)) => {
                words.next();
            }
            _ => kept.push(word),
        }
    }
    kept
}

/// The option that `word` is; both `-option` and `--option` are read by QEMU.
fn option(word: &str) -> Option<&str> {
    let name = word.strip_prefix('-')?;
    Some(name.strip_prefix('-').unwrap_or(name))
}

/// Options whose files QEMU makes, or that are memory.
const NO_FILES: [&str; 14] = [
    "D", "append", "chardev", "incoming", "mem-path", "monitor", "msg", "name", "object",
    "parallel", "pidfile", "qmp", "serial", "trace",
];

/// What of the command line is a file by `is_file`, each once.
fn files(command: &[String], is_file: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut before = "";
    for word in command.iter().skip(1) {
        if let Some(name) = option(word) {
            before = name;
            continue;
        }
        if NO_FILES.contains(&std::mem::take(&mut before)) {
            continue;
        }
        let mut texts = vec![word.clone()];
        if let Ok(value) = serde_json::from_str::<Value>(word) {
            collect(&value, &mut texts);
        }
        for part in word.split(',') {
            texts.extend(part.split_once('=').map(|(_, value)| value.to_owned()));
        }
        for text in texts.into_iter().filter(|text| is_file(text)) {
            let path = PathBuf::from(text);
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

/// All texts in `value`.
fn collect(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| collect(value, texts)),
        Value::Object(values) => values.values().for_each(|value| collect(value, texts)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_an_arrival_adds_does_not_pile_up() {
        let given = format!(
            "qemu -m 1G -qmp unix:/run/a.qmp,server=on -daemonize --incoming defer -qmp \
             unix:/tmp/{ARRIVAL_FOLDER}.7/qmp,server=on -nodefaults"
        );
        assert_eq!(
            lasting(words(&given)),
            words("qemu -m 1G -qmp unix:/run/a.qmp,server=on -nodefaults")
        );
    }

    #[test]
    fn disks_and_firmware_are_found_and_what_qemu_makes_is_not() {
        let given = words(
            "qemu -kernel /boot/k -drive file=a.img,if=virtio -blockdev \
             {\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/b.img\"}} -hda a.img \
             -serial file:/log -chardev file,id=c,path=/log -pidfile /pid -object \
             memory-backend-file,id=m,mem-path=/ram -append root=/disk -m 1G",
        );
        let there = [
            "/boot/k", "a.img", "/b.img", "/log", "/pid", "/ram", "/disk",
        ];
        let found = files(&given, &|text| there.contains(&text));
        assert_eq!(found, ["/boot/k", "a.img", "/b.img"].map(PathBuf::from));
    }

    #[test]
    fn the_command_comes_back_out_of_an_environment() {
        let command = ["qemu", "-m", "1G"].map(OsString::from);
        let (name, value) = RunCommand::variable(&command, Some(Path::new("/ram"))).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env(name, value)
            .spawn()
            .unwrap();
        // Between fork and exec the environment is this process's.
        let found = std::iter::repeat_with(|| RunCommand::of_process(child.id()))
            .take(10_000)
            .find_map(Result::ok);
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found.unwrap();
        assert_eq!(found.command, ["qemu", "-m", "1G"]);
        assert_eq!(found.ram_dir.as_deref(), Some(Path::new("/ram")));
        let other = std::ffi::OsStr::from_bytes(b"\xff").to_owned();
        assert_eq!(RunCommand::variable(&[other], None), None);
    }
}
