//! How a QEMU is started: its command line, and the wait until it answers.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;

use anyhow::{Context, Result};

use super::Qemu;
use super::process::{Paths, Process};
use crate::bed::Bed;
use crate::guest::{Images, Workload};
use crate::qmp::Qmp;
use crate::serial::Serial;

/// How to start a QEMU; cloned for the other side of a migration.
#[derive(Clone, Debug)]
pub struct Builder<'a> {
    bed: &'a Bed,
    images: Images,
    workload: Workload,
    program: OsString,
    accel: String,
    prefix: Vec<OsString>,
    ram_file: Option<PathBuf>,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(bed: &'a Bed, images: &Images) -> Self {
        Self {
            bed,
            images: images.clone(),
            workload: Workload::default(),
            program: "qemu-system-x86_64".into(),
            accel: "tcg".to_owned(),
            prefix: Vec::new(),
            ram_file: None,
            args: Vec::new(),
            envs: Vec::new(),
        }
    }

    /// What the guest does, and its memory and CPUs with it.
    #[must_use]
    pub fn workload(mut self, workload: &Workload) -> Self {
        self.workload = workload.clone();
        self
    }

    /// One more argument for QEMU, after all others.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments for QEMU, after all others.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// A command in front of QEMU's own, such as `pagelift run --` or `ip netns exec NAME`.
    /// Said twice, the second goes behind the first.
    #[must_use]
    pub fn prefix<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.prefix
            .extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Another QEMU than the `qemu-system-x86_64` on the path.
    #[must_use]
    pub fn program(mut self, program: impl AsRef<OsStr>) -> Self {
        self.program = program.as_ref().to_owned();
        self
    }

    /// Another accelerator than emulation: `kvm` where it can boot the guest.
    #[must_use]
    pub fn accel(mut self, accel: &str) -> Self {
        accel.clone_into(&mut self.accel);
        self
    }

    /// Guest RAM in this file, shared: what direct mode asks for. QEMU makes the file if it is
    /// not there, and never removes it. Without this, memory is anonymous.
    #[must_use]
    pub fn ram_file(mut self, path: impl AsRef<Path>) -> Self {
        self.ram_file = Some(path.as_ref().to_owned());
        self
    }

    /// Has it wait for a guest: `-incoming defer`.
    #[must_use]
    pub fn waiting(self) -> Self {
        self.arg("-incoming").arg("defer")
    }

    /// Starts two that are alike: `source`, and `target`, which waits for its guest.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_pair(self) -> Result<(Qemu, Qemu)> {
        let source = self.clone().start("source")?;
        let target = self.waiting().start("target")?;
        Ok((source, target))
    }

    /// Starts it and waits until console and monitors answer, not until the guest is up.
    ///
    /// `name` names its files and must be unique in the bed.
    pub fn start(self, name: &str) -> Result<Qemu> {
        let file = |kind: &str| self.bed.dir().join(format!("{name}.{kind}"));
        let paths = Paths {
            serial: file("serial"),
            qmp: file("qmp"),
            monitor: file("monitor"),
            output: file("log"),
        };
        let listener = UnixListener::bind(&paths.serial)
            .with_context(|| format!("console {}", paths.serial.display()))?;
        listener.set_nonblocking(true)?;
        // A prefix may make QEMU another user's.
        fs::set_permissions(&paths.serial, fs::Permissions::from_mode(0o666))?;

        let output = fs::File::create(&paths.output)?;
        let mut words = self.prefix.clone();
        words.push(self.program.clone());
        words.extend(self.qemu_args(&paths));
        let mut command = self.bed.command(&words[0]);
        command
            .args(&words[1..])
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command
            .spawn()
            .with_context(|| format!("{}", words[0].display()))?;

        let mut process = Process::new(child, paths);
        let stream = process.until_started(|| match listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e.into()),
        })?;
        stream.set_nonblocking(false)?;
        let monitor = process.paths().monitor.clone();
        process.until_started(|| Ok(UnixStream::connect(&monitor).ok().map(drop)))?;
        let qmp = Qmp::connect(&monitor)?;
        Ok(Qemu {
            name: name.to_owned(),
            serial: Serial::new(stream)?,
            qmp: Mutex::new(qmp),
            process: Mutex::new(process),
        })
    }

    fn qemu_args(&self, paths: &Paths) -> Vec<OsString> {
        let memory = format!("{}M", self.workload.memory_mib);
        let mut machine = "pc".to_owned();
        let mut args: Vec<OsString> = Vec::new();
        if let Some(path) = &self.ram_file {
            machine.push_str(",memory-backend=ram0");
            args.extend([
                "-object".into(),
                joined(&[
                    "memory-backend-file,id=ram0,share=on,size=".as_ref(),
                    memory.as_ref(),
                    ",mem-path=".as_ref(),
                    path.as_os_str(),
                ]),
            ]);
        }
        let socket = |id: &str, path: &Path, rest: &str| {
            let id = format!("socket,id={id},path=");
            joined(&[id.as_ref(), path.as_os_str(), rest.as_ref()])
        };
        let plain = |word: &str| OsString::from(word);
        args.extend([
            plain("-accel"),
            plain(&self.accel),
            plain("-machine"),
            plain(&machine),
            plain("-m"),
            plain(&memory),
            plain("-smp"),
            plain(&self.workload.cpus.to_string()),
            plain("-nodefaults"),
            plain("-no-user-config"),
            plain("-no-reboot"),
            plain("-display"),
            plain("none"),
            plain("-kernel"),
            self.images.kernel.clone().into(),
            plain("-initrd"),
            self.images.initrd.clone().into(),
            plain("-append"),
            plain(&self.workload.kernel_args()),
            plain("-chardev"),
            socket("serial0", &paths.serial, ""),
            plain("-serial"),
            plain("chardev:serial0"),
        ]);
        for (id, path) in [("qmp0", &paths.qmp), ("qmp1", &paths.monitor)] {
            args.extend([
                plain("-chardev"),
                socket(id, path, ",server=on,wait=off"),
                plain("-mon"),
                plain(&format!("chardev={id},mode=control")),
            ]);
        }
        args.extend(self.args.iter().cloned());
        args
    }
}

fn joined(parts: &[&OsStr]) -> OsString {
    let mut whole = OsString::new();
    parts.iter().for_each(|part| whole.push(part));
    whole
}
