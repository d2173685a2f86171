//! The process of a guest, and its monitor.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pagelift_control::qmp::{Address, Event, Qmp, QmpError};
use pagelift_engine::plain_text;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use super::{QemuError, Start};
use crate::store::private_dir;

/// How long a QEMU may take to listen at its monitor.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long one that was asked to quit may take.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);
/// How long one that was killed may take: it may wait for a disk.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// How much of what it printed is quoted, in bytes.
const QUOTED_BYTES: u64 = 2000;

/// What a QEMU is started with.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The guest's name.
    pub name: String,
    /// The program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What is in its environment beside a path.
    pub environment: Vec<(String, String)>,
    /// Where its sockets are.
    pub start: Start,
    /// What it prints goes there.
    pub log: PathBuf,
}

/// How a process ended, as far as its monitor told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The guest shut down.
    Shutdown,
    /// Without a word.
    Crashed,
}

/// A QEMU that runs.
#[derive(Debug)]
pub struct Qemu {
    qmp: Qmp,
    pid: u32,
    process: OwnedFd,
    /// Ours, unless a daemon before this one started it.
    child: Mutex<Option<Child>>,
}

impl Qemu {
    /// Starts one, which waits to be told that the guest may run.
    ///
    /// # Errors
    /// When it does not start; then it is gone.
    pub fn launch(launch: &Launch) -> Result<Self, QemuError> {
        let Launch { start, log, .. } = launch;
        let monitor = start.monitor();
        private_dir(&start.dir)?;
        if let Some(dir) = log.parent() {
            private_dir(dir)?;
        }
        let _not_there = fs::remove_file(&monitor);
        let mut log = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(log)?;
        let printed = log.seek(SeekFrom::End(0))?;
        let child = Command::new(&launch.program)
            .args(&launch.args)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .current_dir("/")
            // A signal for the daemon's group is not for the guests.
            .process_group(0)
            .spawn()
            .map_err(|source| QemuError::Start {
                program: launch.program.clone(),
                source,
            })?;
        let mut starting = Starting(Some(child));
        let qmp = match starting.monitor(&monitor) {
            Ok(qmp) => qmp,
            Err(error) if !starting.has_ended() => return Err(error),
            Err(_) => {
                log.seek(SeekFrom::Start(printed))?;
                let mut said = Vec::new();
                log.take(QUOTED_BYTES).read_to_end(&mut said)?;
                return Err(QemuError::Ended {
                    name: launch.name.clone(),
                    said: plain_text::lines(String::from_utf8_lossy(&said).trim_end()),
                });
            }
        };
        let pid = starting.0.as_ref().map_or(0, Child::id);
        // Before it is let go: without its descriptor it is killed.
        let process = open_process(pid)?;
        let child = starting.0.take();
        Ok(Self {
            process,
            qmp,
            pid,
            child: Mutex::new(child),
        })
    }

    /// Finds one that was started before, by where its sockets are.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn adopt(start: &Start) -> Result<Self, QemuError> {
        let qmp = Qmp::connect(&Address::Unix(start.monitor()))?;
        let pid = qmp.peer_pid()?;
        Ok(Self {
            process: open_process(pid)?,
            qmp,
            pid,
            child: Mutex::new(None),
        })
    }

    /// Its monitor.
    pub const fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// Its process.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// A command without a result that matters.
    ///
    /// # Errors
    /// As the monitor's.
    pub fn execute(&self, command: &str) -> Result<Value, QmpError> {
        self.qmp.execute(command, Value::Null)
    }

    /// The processor time that it has used, in nanoseconds.
    pub fn cpu_time_ns(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The command's name, in parentheses, may itself hold spaces and parentheses.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = times.filter_map(|time| time.parse::<u64>().ok()).sum();
        ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second())
    }

    /// Ends it: asks, and kills it when that does not help.
    ///
    /// # Errors
    /// When it cannot be ended: it waits for a disk, for ever.
    pub fn end(&self) -> io::Result<()> {
        let asked = self.qmp.execute_within("quit", Value::Null, QUIT_PATIENCE);
        if asked.is_ok() && self.wait(QUIT_PATIENCE)? {
            return Ok(());
        }
        self.kill()
    }

    /// Ends it without asking.
    ///
    /// # Errors
    /// As [`end`](Self::end).
    pub fn kill(&self) -> io::Result<()> {
        let _already_gone = pidfd_send_signal(&self.process, Signal::KILL);
        if self.wait(KILL_PATIENCE)? {
            return Ok(());
        }
        let why = format!("process {} does not end although it was killed", self.pid);
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }

    /// Waits until the process has ended; whether it has.
    fn wait(&self, patience: Duration) -> io::Result<bool> {
        let ended = has_ended(&self.process, patience)?;
        if ended {
            let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(mut child) = child.take() {
                let _reaped = child.wait();
            }
        }
        Ok(ended)
    }

    /// Calls `on_event` with each event until the process has ended.
    pub fn watch(&self, mut on_event: impl FnMut(&Event)) -> Ended {
        let mut ended = Ended::Crashed;
        let mut events = self.qmp.events();
        loop {
            let next = events.wait("an event", Duration::from_secs(3600), |e| Some(e.clone()));
            match next {
                Ok(event) => {
                    if event.name == "SHUTDOWN" {
                        ended = Ended::Shutdown;
                    }
                    on_event(&event);
                }
                Err(QmpError::Timeout { .. } | QmpError::EventsLost { .. }) => {}
                Err(_) => break,
            }
        }
        // Without its monitor nobody can tell it anything any more.
        if !self.wait(QUIT_PATIENCE).unwrap_or(false) {
            let _reported_by_the_next = self.kill();
        }
        ended
    }
}

/// A child that is killed if it does not come up.
#[derive(Debug)]
struct Starting(Option<Child>);

impl Starting {
    fn has_ended(&mut self) -> bool {
        let child = self.0.as_mut();
        child.is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Its monitor, once it listens.
    fn monitor(&mut self, path: &Path) -> Result<Qmp, QemuError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let ended = self.has_ended();
            match Qmp::connect(&Address::Unix(path.to_owned())) {
                Ok(qmp) => return Ok(qmp),
                Err(error) if ended || Instant::now() >= deadline => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _already_gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Waits until `process` has ended; whether it has.
pub(super) fn has_ended(process: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut fds, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn open_process(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
