//! The lab: small guests with kernels and devices that this machine has not, such as RDMA.
//!
//! A test runs a shell script in one guest, or in two with a wire between them; `tests/lab/run` says
//! what there is in them. Each is under emulation and boots in about three seconds: durations mean
//! nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::bed::Bed;
use crate::skip::Skip;

/// Exit code of the lab's programs: the machine lacks something, and stderr says what.
const LACKING: i32 = 101;
/// The lowest exit code that a guest has not given.
const FIRST_OF_LAB: i32 = 61;

/// What guests are to have.
#[derive(Clone, Debug, Default)]
pub struct Lab {
    sets: Vec<&'static str>,
    kernel: Option<String>,
    memory_mib: Option<u32>,
    cpus: Option<u32>,
    files: Vec<PathBuf>,
}

/// What came of the scripts.
#[derive(Clone, Debug)]
pub struct LabRun {
    /// Exit status of the script; of two, the first that is not 0. From 0 to 60.
    pub status: i32,
    /// What was printed. Lines of two guests begin with `1| ` and `2| `.
    pub output: String,
}

impl Lab {
    /// Guests that load these sets of modules (`tests/lab/sets`).
    pub fn new(sets: &[&'static str]) -> Self {
        Self {
            sets: sets.to_vec(),
            ..Self::default()
        }
    }

    /// With the kernel of another package, as apt-get(8) takes it.
    #[must_use]
    pub fn kernel(mut self, package: &str) -> Self {
        self.kernel = Some(package.to_owned());
        self
    }

    /// With so much memory, in MiB, in place of 1024.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = Some(memory_mib);
        self
    }

    /// With so many processors in place of one.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// With a program or another file, which the script finds on its PATH.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(path.into());
        self
    }

    /// Runs `script` in a guest.
    ///
    /// # Errors
    /// When the guest did not get to run it to its end. The inner error: the machine has no lab.
    pub fn run(&self, bed: &Bed, script: &str) -> Result<Result<LabRun, Skip>> {
        let script = written(bed, "script.sh", script)?;
        self.start(bed, &[], &[&script])
    }

    /// Runs `script` in a guest and `other` in a second one.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_two(&self, bed: &Bed, script: &str, other: &str) -> Result<Result<LabRun, Skip>> {
        let script = written(bed, "script.sh", script)?;
        let other = written(bed, "other.sh", other)?;
        self.start(bed, &["-2"], &[&script, &other])
    }

    fn start(
        &self,
        bed: &Bed,
        options: &[&str],
        scripts: &[&Path],
    ) -> Result<Result<LabRun, Skip>> {
        let mut command = bed.command(concat!(env!("CARGO_MANIFEST_DIR"), "/lab/run"));
        command.args(options);
        if !self.sets.is_empty() {
            command.args(["-s", &self.sets.join(",")]);
        }
        command.args(scripts).args(&self.files);
        command.stdin(Stdio::null()).env("TMPDIR", bed.dir());
        let mut set = |name: &str, value: Option<String>| {
            value.map(|value| command.env(name, value));
        };
        set("PAGELIFT_LAB_KERNEL", self.kernel.clone());
        set(
            "PAGELIFT_LAB_MEMORY",
            self.memory_mib.map(|mib| mib.to_string()),
        );
        set("PAGELIFT_LAB_CPUS", self.cpus.map(|cpus| cpus.to_string()));
        finished(command)
    }
}

fn written(bed: &Bed, name: &str, script: &str) -> Result<PathBuf> {
    let path = bed.dir().join(name);
    std::fs::write(&path, script)?;
    Ok(path)
}

fn finished(mut command: Command) -> Result<Result<LabRun, Skip>> {
    let output = command.output().context("the lab")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(LACKING) => Ok(Err(Skip(stderr.trim().to_owned()))),
        Some(status) if status < FIRST_OF_LAB => Ok(Ok(LabRun {
            status,
            output: stdout,
        })),
        _ => bail!("the lab: {}:\n{stdout}{stderr}", output.status),
    }
}
