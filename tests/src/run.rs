//! A program under test: started, watched through what it prints, signalled, and waited for.
//!
//! What it prints goes to files in the bed, so that nothing it says can block it.

use core::time::Duration;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bed::Bed;
use crate::{PATIENCE, process};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A program that runs. Dropped, it is killed with all processes below it.
#[derive(Debug)]
pub struct Run {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// All that it printed as its result.
    pub stdout: String,
    /// All that it said besides.
    pub stderr: String,
}

impl Run {
    /// Starts `command`, which [`Bed::command`] made; `name` is for messages.
    pub fn start(bed: &Bed, name: &str, mut command: Command) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = |kind: &str| bed.dir().join(format!("{name}-{number}.{kind}"));
        let (stdout, stderr) = (file("out"), file("err"));
        command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?);
        let child = command
            .spawn()
            .with_context(|| format!("{}", command.get_program().display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.context("a process id")?, signal)?)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it has stopped itself (SIGSTOP) at a failpoint.
    pub fn wait_stopped(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !process::is_stopped(self.pid()) {
            let ended = self.ended()?;
            if ended.is_some() || Instant::now() >= deadline {
                bail!(
                    "{} did not stop ({ended:?}; was it built with --all-features?): {}",
                    self.name,
                    self.stderr()
                );
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// What it has said on stderr so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits until `wanted` finds something in what it has said on stderr.
    pub fn wait_stderr<T>(&mut self, mut wanted: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Before the look at the text, so that the last words are seen.
            let ended = self.child.try_wait()?;
            if let Some(found) = wanted(&self.stderr()) {
                return Ok(found);
            }
            if ended.is_some() || Instant::now() >= deadline {
                bail!("{} ({ended:?}): {}", self.name, self.stderr());
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Finished> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Finished {
                    status,
                    stdout: fs::read_to_string(&self.stdout)?,
                    stderr: self.stderr(),
                });
            }
            if Instant::now() >= deadline {
                bail!("{} does not end: {}", self.name, self.stderr());
            }
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
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

impl Finished {
    /// Its exit code.
    ///
    /// # Panics
    /// When a signal ended it.
    pub fn code(&self) -> i32 {
        let signal = self.status.signal();
        self.status
            .code()
            .unwrap_or_else(|| panic!("ended by signal {signal:?}: {}", self.stderr))
    }

    /// The one JSON object, on one line, that `--json` promises.
    pub fn json(&self) -> Result<Value> {
        let mut lines = self.stdout.lines();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            bail!("not one line: {:?}; stderr: {}", self.stdout, self.stderr);
        };
        let value: Value = serde_json::from_str(line)?;
        value
            .is_object()
            .then_some(value)
            .ok_or_else(|| anyhow!("not an object: {line}"))
    }
}
