//! The child and its files, so that they go even when starting fails half way.

use core::time::Duration;
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::thread::sleep;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::PATIENCE;
use crate::process as table;

/// The files of one QEMU.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    /// The harness's end of the console listens here.
    pub(super) serial: PathBuf,
    /// For the program under test.
    pub(super) qmp: PathBuf,
    /// For the harness.
    pub(super) monitor: PathBuf,
    /// What it and its prefix print.
    pub(super) output: PathBuf,
}

/// A child that is killed, with all processes below it, when dropped.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) child: Child,
    paths: Paths,
}

impl Process {
    pub(super) fn new(child: Child, paths: Paths) -> Self {
        Self { child, paths }
    }

    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }

    pub(super) fn output(&self) -> String {
        fs::read_to_string(&self.paths.output).unwrap_or_default()
    }

    /// Tries until there is a value; ends with what was printed when the process ends.
    pub(super) fn until_started<T>(
        &mut self,
        mut attempt: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = attempt()? {
                return Ok(value);
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() >= deadline {
                bail!("QEMU did not start ({ended:?}): {}", self.output());
            }
            sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn kill(&mut self) {
        // Once waited for, the number may be another process's.
        if matches!(self.child.try_wait(), Ok(None)) {
            table::tree(self.child.id())
                .into_iter()
                .for_each(table::kill);
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
