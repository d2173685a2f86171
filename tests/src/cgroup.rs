//! A cgroup of this machine, for tests of quotas. It takes root, and the controller `cpu`.
//!
//! Version 1: Documentation/admin-guide/cgroup-v1/cgroups.rst; version 2: cgroup-v2.rst, where a
//! group of single threads must be made `threaded`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::PATIENCE;
use crate::bed::Bed;
use crate::skip::Skip;

/// Where hierarchies with the controller are mounted.
const ROOTS: [&str; 3] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/cpu",
    "/sys/fs/cgroup/cpu,cpuacct",
];

/// What holds a limit: the file of version 2, and those of version 1.
const LIMITS: [&[&str]; 2] = [&["cpu.max"], &["cpu.cfs_quota_us", "cpu.cfs_period_us"]];

/// A cgroup. Dropped, it is removed, once what was in it has ended: declare it before that.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// An empty one with a quota.
    pub fn new(bed: &Bed, name: &str) -> Result<Self, Skip> {
        let made = ROOTS.iter().find_map(|root| {
            let path = Path::new(root).join(format!("{}-{name}", bed.tag()));
            // On a tmpfs that carries hierarchies of version 1 a folder is just a folder, which
            // goes at once.
            fs::create_dir(&path).ok()?;
            let made = Self { path };
            made.limit().is_ok().then_some(made)
        });
        let why = "no cgroup with the controller cpu can be made here; run as root";
        made.ok_or_else(|| Skip(why.into()))
    }

    /// One inside it for single threads of a process that is in this one.
    pub fn for_threads(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("{}", path.display()))?;
        let made = Self { path };
        if self.path.join("cgroup.subtree_control").exists() {
            made.write("cgroup.type", "threaded")?;
            self.write("cgroup.subtree_control", "+cpu")?;
        }
        made.limit()?;
        Ok(made)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a process into it, with all its threads.
    pub fn add_process(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Puts one thread into it.
    pub fn add_thread(&self, tid: u32) -> Result<()> {
        let is_v2 = self.path.join("cgroup.threads").exists();
        let list = if is_v2 { "cgroup.threads" } else { "tasks" };
        self.write(list, &tid.to_string())
    }

    /// Its quota and its period, in the kernel's words.
    pub fn limit(&self) -> Result<String> {
        let files = LIMITS
            .into_iter()
            .find(|files| self.path.join(files[0]).exists())
            .with_context(|| format!("{} has no quota", self.path.display()))?;
        let read = |name: &&str| fs::read_to_string(self.path.join(name));
        let texts = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(texts.join(" ").replace('\n', ""))
    }

    /// Waits until its limit is `wanted` or, if not `equal`, anything else.
    pub fn wait_limit(&self, wanted: &str, equal: bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let limit = self.limit()?;
            if (limit == wanted) == equal {
                return Ok(limit);
            }
            let path = self.path.display();
            anyhow::ensure!(Instant::now() < deadline, "{path}: the limit is {limit}");
            sleep(Duration::from_millis(2));
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, text).with_context(|| format!("{text} to {}", path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was reaped just now may be in it for a moment longer.
        for _ in 0..500 {
            if fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            sleep(Duration::from_millis(10));
        }
    }
}
