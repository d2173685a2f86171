//! One test's place in the machine, and the proof that it is left clean.
//!
//! Everything a test makes carries the tag of its [`Bed`]: its directory, files in /dev/shm,
//! network namespaces, and, through an environment variable, every process that it starts and
//! all that those start in turn. So tests that run at once never take each other's for their
//! own, and what is left over can be found and named.
//!
//! [`Bed::finish`] asserts that nothing is left. A bed that is dropped, also by a panic, kills
//! and removes whatever it finds instead. Declare the bed first: it is then dropped last. Programs
//! that a signal may end drop nothing; they are [supervised](crate::supervise).

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::process::{self, MARK};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Where POSIX shared memory lives (shm_overview(7)).
const SHM: &str = "/dev/shm";

/// The place of one test. See the [module](self).
#[derive(Debug)]
pub struct Bed {
    tag: String,
    dir: PathBuf,
}

impl Bed {
    /// A fresh directory and a tag that no other live test has.
    pub fn new() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bed = Self::tagged(format!("plt-{}-{number}", std::process::id()));
        let dir = &bed.dir;
        // Only a dead process of the same id can have left one.
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir.join("run")).with_context(|| format!("{}", dir.display()))?;
        Ok(bed)
    }

    fn tagged(tag: String) -> Self {
        let dir = std::env::temp_dir().join(&tag);
        Self { tag, dir }
    }

    /// `plt-PID-N`: part of the name of everything that belongs to this test.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// A directory for the test's own files; removed with the bed, whatever it holds.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory that programs get as TMPDIR and XDG_RUNTIME_DIR. They must leave it empty.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// A command that carries the mark and keeps its temporary files inside the bed.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.mark(&mut command);
        command
    }

    /// Does to a command built elsewhere what [`command`](Self::command) does.
    pub fn mark(&self, command: &mut Command) {
        command
            .env(MARK, &self.tag)
            .env("TMPDIR", self.runtime_dir())
            .env("XDG_RUNTIME_DIR", self.runtime_dir());
    }

    /// A file of `bytes` zero bytes in shared memory, for guest RAM; gone when dropped.
    pub fn shm_file(&self, name: &str, bytes: u64) -> Result<ShmFile> {
        let path = Path::new(SHM).join(format!("{}-{name}", self.tag));
        let file = fs::File::create_new(&path).with_context(|| format!("{}", path.display()))?;
        let made = ShmFile { path };
        file.set_len(bytes)?;
        Ok(made)
    }

    /// A folder in shared memory, for files of guest RAM; gone, with what is in it, when dropped.
    pub fn shm_dir(&self, name: &str) -> Result<ShmDir> {
        let path = Path::new(SHM).join(format!("{}-{name}", self.tag));
        fs::create_dir(&path).with_context(|| format!("{}", path.display()))?;
        Ok(ShmDir { path })
    }

    /// Everything of this test that still exists, one line each; empty when it is clean.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found: Vec<String> = process::marked(&self.tag)
            .into_iter()
            .map(|pid| format!("process {pid} ({})", process::name(pid).unwrap_or_default()))
            .collect();
        found.extend(
            self.shm_files()
                .iter()
                .map(|path| format!("file {}", path.display())),
        );
        found.extend(
            self.namespaces()
                .iter()
                .map(|name| format!("network namespace {name}")),
        );
        found.extend(
            self.mounts()
                .iter()
                .map(|path| format!("mount {}", path.display())),
        );
        found.extend(entries(&self.runtime_dir()).map(|path| format!("file {}", path.display())));
        found
    }

    /// The same once processes have had up to ten seconds to end by themselves.
    pub fn left_behind(&self) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !process::marked(&self.tag).is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        self.leftovers()
    }

    /// Asserts that nothing is left behind, and removes the bed.
    ///
    /// # Panics
    /// When something is, with a list.
    pub fn finish(self) {
        let left = self.left_behind();
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }

    fn shm_files(&self) -> Vec<PathBuf> {
        self.ours(SHM)
    }

    fn namespaces(&self) -> Vec<String> {
        let names = self.ours("/run/netns");
        names
            .iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect()
    }

    /// Entries of `dir` that are this test's: `plt-1-2` must not claim those of `plt-1-20`.
    fn ours(&self, dir: &str) -> Vec<PathBuf> {
        let prefix = format!("{}-", self.tag);
        entries(Path::new(dir))
            .filter(|path| {
                path.file_name()
                    .and_then(OsStr::to_str)
                    .is_some_and(|n| n.starts_with(&prefix))
            })
            .collect()
    }

    /// File systems mounted inside the bed, innermost first (proc_pid_mountinfo(5)).
    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut found: Vec<PathBuf> = table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|path| path.starts_with(&self.dir))
            .collect();
        found.reverse();
        found
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

impl Drop for Bed {
    fn drop(&mut self) {
        // A process may be starting another just as it is killed, hence the second look.
        for _ in 0..500 {
            let alive = process::marked(&self.tag);
            if alive.is_empty() {
                break;
            }
            alive.into_iter().for_each(process::kill);
            sleep(Duration::from_millis(10));
        }
        // Nothing can be done about a failure here; the next `leftovers` would name it.
        for mount in self.mounts() {
            let _ = Command::new("umount").arg("-l").arg(mount).status();
        }
        for namespace in self.namespaces() {
            let _ = Command::new("ip")
                .args(["netns", "del", &namespace])
                .status();
        }
        for path in self.shm_files() {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(path);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Kills and removes all that beds of a process have left, which itself must have ended.
pub(crate) fn remove_all(pid: u32) {
    let prefix = format!("plt-{pid}-");
    // A bed's folder is made before all else of it, and goes last.
    for path in entries(&std::env::temp_dir()) {
        let tag = path.file_name().and_then(OsStr::to_str);
        if let Some(tag) = tag.filter(|tag| tag.starts_with(&prefix)) {
            drop(Bed::tagged(tag.to_owned()));
        }
    }
}

/// A file in shared memory, removed when dropped.
#[derive(Debug)]
pub struct ShmFile {
    path: PathBuf,
}

impl ShmFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ShmFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A folder in shared memory, removed when dropped.
#[derive(Debug)]
pub struct ShmDir {
    path: PathBuf,
}

impl ShmDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ShmDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
