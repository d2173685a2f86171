//! A small file system that fills up: for tests of what happens when there is no room left.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bed::Bed;
use crate::skip::Skip;

/// A tmpfs mounted inside a bed (tmpfs(5)), unmounted when dropped. It takes root.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts one of at most `limit_bytes` bytes (whole pages) at `name` in the bed.
    pub fn new(bed: &Bed, name: &str, limit_bytes: u64) -> Result<Self, Skip> {
        let path = bed.dir().join(name);
        let lacking = |why: &str| Skip(format!("no tmpfs at {}: {why}", path.display()));
        std::fs::create_dir_all(&path).map_err(|error| lacking(&error.to_string()))?;
        let output = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={limit_bytes}"),
                "pagelift-test",
            ])
            .arg(&path)
            .output()
            .map_err(|error| lacking(&error.to_string()))?;
        if !output.status.success() {
            return Err(lacking(String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(Self { path })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, since a program that is being killed may still hold a file of it.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
