//! A QEMU process with its serial console and two monitors, gone when dropped.
//!
//! The machine is emulated (TCG), a plain `pc` with nothing but a serial port, so that it boots
//! in about a second and a half and runs where /dev/kvm does not.

use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::guest::{Images, Workload};
use crate::qmp::Qmp;
use crate::serial::{Line, Serial, SerialLog};
use crate::{PATIENCE, process};

/// How to start a QEMU; cloned for the other side of a migration.
#[derive(Clone, Debug)]
pub struct Builder<'a> {
    bed: &'a Bed,
    images: Images,
    workload: Workload,
    program: OsString,
    prefix: Vec<OsString>,
    ram_file: Option<PathBuf>,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
}

impl Builder<'_> {
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

    /// Guest RAM in this file, shared: what direct mode asks for. QEMU makes the file if it is
    /// not there, and never removes it. Without this, memory is anonymous.
    #[must_use]
    pub fn ram_file(mut self, path: impl AsRef<Path>) -> Self {
        self.ram_file = Some(path.as_ref().to_owned());
        self
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

        let mut process = Process { child, paths };
        let stream = process.until_started(|| match listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e.into()),
        })?;
        stream.set_nonblocking(false)?;
        let monitor = process.paths.monitor.clone();
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
            plain("tcg"),
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

/// What a full check of the guest's memory by the guest found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Pages checked: all of them.
    pub pages: u64,
    /// Pages that do not hold what they must.
    pub bad: u64,
}

/// A QEMU that runs. Dropped, it is killed with all processes below it and its sockets go.
#[derive(Debug)]
pub struct Qemu {
    name: String,
    serial: Serial,
    qmp: Mutex<Qmp>,
    process: Mutex<Process>,
}

impl Qemu {
    /// Begins the description of a QEMU that boots `images` and belongs to `bed`.
    pub fn builder<'a>(bed: &'a Bed, images: &Images) -> Builder<'a> {
        Builder {
            bed,
            images: images.clone(),
            workload: Workload::default(),
            program: "qemu-system-x86_64".into(),
            prefix: Vec::new(),
            ram_file: None,
            args: Vec::new(),
            envs: Vec::new(),
        }
    }

    /// The monitor for the program under test. [`execute`](Self::execute) uses another one.
    pub fn qmp_path(&self) -> PathBuf {
        self.process().paths.qmp.clone()
    }

    /// Executes a monitor command for the test itself.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp()
            .execute(command, arguments)
            .with_context(|| self.name.clone())
    }

    /// The next monitor event of that name, past or to come.
    pub fn wait_event(&self, name: &str, patience: Duration) -> Result<Value> {
        self.qmp()
            .wait_event(name, patience)
            .with_context(|| self.name.clone())
    }

    /// QEMU's run state (`running`, `postmigrate`, `inmigrate`, ...).
    pub fn run_state(&self) -> Result<String> {
        let status = self.execute("query-status", json!({}))?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }

    /// The process that was started: QEMU, or the prefix if that does not become QEMU.
    pub fn pid(&self) -> u32 {
        self.process().child.id()
    }

    /// The QEMU process itself, below the prefix or in its place.
    pub fn qemu_pid(&self) -> Result<u32> {
        let tree = process::tree(self.pid());
        tree.into_iter()
            .find(|pid| process::name(*pid).is_some_and(|name| name.starts_with("qemu-system")))
            .ok_or_else(|| anyhow!("{} is not running", self.name))
    }

    /// CPU seconds, user and system, used so far by it and all processes below it.
    pub fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(self.pid())
    }

    /// Whether the process that was started has not ended.
    pub fn is_running(&self) -> bool {
        matches!(self.process().child.try_wait(), Ok(None))
    }

    /// Waits for the end of the process.
    pub fn wait_exit(&self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.process().child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} is still running", self.name);
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL to it and all processes below it, and waits until it is gone. Its console's log
    /// stays readable.
    pub fn kill(&self) {
        self.process().kill();
    }

    /// What it and its prefix printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.process().paths.output).unwrap_or_default()
    }

    /// Writes a line to the guest's console.
    pub fn write_serial(&self, line: &str) -> Result<()> {
        self.serial
            .write_line(line)
            .with_context(|| format!("console of {}", self.name))
    }

    /// What the guest has printed so far.
    pub fn log(&self) -> SerialLog {
        self.serial.log()
    }

    /// The first line, past or to come, that `wanted` accepts.
    pub fn wait_serial(
        &self,
        patience: Duration,
        wanted: impl FnMut(&str) -> bool,
    ) -> Result<Line> {
        Ok(self.wait_serial_from(0, patience, wanted)?.1)
    }

    /// The first line from number `from` on that `wanted` accepts, and its number.
    ///
    /// Ends early when the process does; the error then holds the end of the console and what
    /// QEMU printed.
    pub fn wait_serial_from(
        &self,
        from: usize,
        patience: Duration,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<(usize, Line)> {
        let deadline = Instant::now() + patience;
        let mut next = from;
        loop {
            // Before the look at the lines, so that the last ones of a dead QEMU are seen.
            let running = self.is_running();
            match self
                .serial
                .wait(next, Duration::from_millis(100), &mut wanted)
            {
                Ok(found) => return Ok(found),
                Err(seen) => next = seen,
            }
            if !running || Instant::now() >= deadline {
                let why = if running {
                    "the line did not come"
                } else {
                    "it has ended"
                };
                bail!(
                    "{}: {why}; console:\n{}\noutput:\n{}",
                    self.name,
                    self.log().tail(20),
                    self.output()
                );
            }
        }
    }

    /// Waits until the guest has filled its memory.
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_serial(PATIENCE, |line| line.starts_with("ready "))?;
        Ok(())
    }

    /// Waits until the guest has ticked `n` times from now on: it runs here.
    pub fn wait_ticks(&self, n: usize) -> Result<()> {
        let mut seen = 0;
        self.wait_serial_from(self.log().lines.len(), PATIENCE, |line| {
            seen += usize::from(line.starts_with("tick "));
            seen >= n
        })?;
        Ok(())
    }

    /// Has the guest check all its pages now.
    pub fn verify(&self) -> Result<Verified> {
        let from = self.log().lines.len();
        self.write_serial("verify")?;
        let (_, line) =
            self.wait_serial_from(from, PATIENCE, |line| line.starts_with("verified "))?;
        let words: Vec<&str> = line.text.split(' ').collect();
        match words[..] {
            [_, pages, "bad", bad] => Ok(Verified {
                pages: pages.parse()?,
                bad: bad.parse()?,
            }),
            _ => bail!("{}: {:?}", self.name, line.text),
        }
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn qmp(&self) -> std::sync::MutexGuard<'_, Qmp> {
        self.qmp.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug)]
struct Paths {
    serial: PathBuf,
    /// For the program under test.
    qmp: PathBuf,
    /// For the harness.
    monitor: PathBuf,
    output: PathBuf,
}

/// The child and its files, so that they go even when starting fails half way.
#[derive(Debug)]
struct Process {
    child: Child,
    paths: Paths,
}

impl Process {
    /// Tries until there is a value; ends with what was printed when the process ends.
    fn until_started<T>(&mut self, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = attempt()? {
                return Ok(value);
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() >= deadline {
                let output = fs::read_to_string(&self.paths.output).unwrap_or_default();
                bail!("QEMU did not start ({ended:?}): {output}");
            }
            sleep(Duration::from_millis(5));
        }
    }

    fn kill(&mut self) {
        // Once waited for, the number may be another process's.
        if matches!(self.child.try_wait(), Ok(None)) {
            process::tree(self.child.id())
                .into_iter()
                .for_each(process::kill);
            // Fails only if it was waited for, which is just what is wanted.
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        for path in [&self.paths.serial, &self.paths.qmp, &self.paths.monitor] {
            // QEMU removes its own when it ends in order.
            let _ = fs::remove_file(path);
        }
    }
}
