//! A QEMU process with its serial console and two monitors, gone when dropped.
//!
//! The machine is emulated (TCG), a plain `pc` with nothing but a serial port, so that it boots
//! in about a second and a half and runs where /dev/kvm does not.

mod builder;
mod process;

use core::time::Duration;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

pub use self::builder::Builder;
use self::process::Process;
use crate::bed::Bed;
use crate::guest::Images;
use crate::qmp::Qmp;
use crate::serial::{Line, Serial, SerialLog};
use crate::{PATIENCE, process as table};

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
        Builder::new(bed, images)
    }

    /// The monitor for the program under test. [`execute`](Self::execute) uses another one.
    pub fn qmp_path(&self) -> PathBuf {
        self.process().paths().qmp.clone()
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

    /// When the last event of that name came so far, by QEMU's own timestamp on the host's
    /// clock, in seconds since 1970; to the microsecond.
    pub fn last_event_s(&self, name: &str) -> Result<f64> {
        let mut qmp = self.qmp();
        let events = qmp.events()?.iter().rev();
        let stamp = events
            .filter(|event| event["event"] == name)
            .map(|event| &event["timestamp"])
            .next()
            .with_context(|| format!("{}: no event {name}", self.name))?;
        let number = |key: &str| stamp[key].as_f64().context("a timestamp has numbers");
        Ok(number("seconds")? + number("microseconds")? / 1e6)
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
        let tree = table::tree(self.pid());
        tree.into_iter()
            .find(|pid| table::name(*pid).is_some_and(|name| name.starts_with("qemu-system")))
            .ok_or_else(|| anyhow!("{} is not running", self.name))
    }

    /// CPU seconds, user and system, used so far by it and all processes below it.
    pub fn cpu_seconds(&self) -> f64 {
        table::cpu_seconds(self.pid())
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
        self.process().output()
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

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn qmp(&self) -> MutexGuard<'_, Qmp> {
        self.qmp.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
