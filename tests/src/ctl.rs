//! `pagelift ctl` as a test runs it.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{Bed, Finished, PATIENCE, Programs, Run};

/// `pagelift ctl` for one socket.
#[derive(Debug)]
pub struct Ctl<'a> {
    bed: &'a Bed,
    socket: PathBuf,
}

impl<'a> Ctl<'a> {
    /// Speaks to the migration that has, or will have, `socket`.
    pub fn new(bed: &'a Bed, socket: PathBuf) -> Self {
        Self { bed, socket }
    }

    /// The migration's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs it with `words`, to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, words: &[&str]) -> Result<Finished> {
        let mut command = Programs::built()?.command(self.bed, "pagelift");
        command.arg("ctl").arg(&self.socket).args(words);
        Run::start(self.bed, "ctl", command)?.wait()
    }

    /// Makes `changes`, each NAME=VALUE.
    ///
    /// # Errors
    /// When they are not accepted.
    pub fn set(&self, changes: &[&str]) -> Result<()> {
        let finished = self.run(&[&["set"], changes].concat())?;
        ensure!(finished.code() == 0, "{finished:?}");
        Ok(())
    }

    /// What the migration says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Value> {
        let finished = self.run(&["status", "--json"])?;
        ensure!(finished.code() == 0, "{finished:?}");
        Ok(finished.json()?["status"].clone())
    }

    /// Waits until the migration that `run` is listens.
    ///
    /// # Errors
    /// When it never does.
    pub fn wait_for_socket(&self, run: &Run) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.socket.exists() {
            ensure!(Instant::now() < deadline, "{}", run.stderr());
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits until `wanted` holds of the status, and gives that.
    ///
    /// # Errors
    /// When it never holds.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status()?;
            if wanted(&status) {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "never {what}: {status}");
            sleep(Duration::from_millis(20));
        }
    }
}
