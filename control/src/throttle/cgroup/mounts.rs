//! Which cgroup a thread is in, and who else is.

use std::fs;
use std::path::{Path, PathBuf};

use super::files::{file_error, read};
use super::quota;
use crate::throttle::ThrottleError;

/// Where the kernel shows its cgroups and processes.
#[derive(Clone, Debug)]
pub struct CgroupMounts {
    proc: PathBuf,
    /// The unified hierarchy, and the version 1 hierarchy of the controller `cpu`.
    v2: Option<Mount>,
    v1_cpu: Option<Mount>,
}

/// A mounted hierarchy: the cgroup `root` of it is seen at `point`.
#[derive(Clone, Debug)]
struct Mount {
    root: PathBuf,
    point: PathBuf,
}

impl CgroupMounts {
    /// Those of this machine.
    ///
    /// # Errors
    /// When /proc/self/mountinfo cannot be read.
    pub fn of_host() -> Result<Self, ThrottleError> {
        let text = read(Path::new("/proc/self/mountinfo"))?;
        Ok(Self::parse(&text))
    }

    /// The process files below `proc`, and the hierarchies' roots at these places.
    pub fn at(proc: &Path, v2: Option<&Path>, v1_cpu: Option<&Path>) -> Self {
        let mount = |point: &Path| Mount {
            root: "/".into(),
            point: point.to_owned(),
        };
        Self {
            proc: proc.to_owned(),
            v2: v2.map(mount),
            v1_cpu: v1_cpu.map(mount),
        }
    }

    /// Reads mountinfo: proc(5).
    fn parse(text: &str) -> Self {
        let mut found = Self::at(Path::new("/proc"), None, None);
        for line in text.lines() {
            let Some((front, back)) = line.split_once(" - ") else {
                continue;
            };
            let mut front = front.split(' ').skip(3);
            let (Some(root), Some(point)) = (front.next(), front.next()) else {
                continue;
            };
            let mount = Mount {
                root: root.into(),
                point: point.into(),
            };
            let mut back = back.split(' ');
            match (back.next(), back.nth(1)) {
                (Some("cgroup2"), _) => found.v2 = Some(mount),
                (Some("cgroup"), Some(options)) if options.split(',').any(|o| o == "cpu") => {
                    found.v1_cpu = Some(mount);
                }
                _ => {}
            }
        }
        found
    }

    /// The folder of the cgroup of the thread `tid` of the process `pid` that has a quota.
    ///
    /// Where both versions are mounted, the controller is in one of them: the one that has the
    /// files of a quota.
    pub(super) fn group_of(&self, pid: u32, tid: u32) -> Result<PathBuf, ThrottleError> {
        let file = self.proc.join(format!("{pid}/task/{tid}/cgroup"));
        let text = fs::read_to_string(&file).map_err(|error| {
            ThrottleError::NoCgroup(format!(
                "thread {tid} of QEMU process {pid} is not seen here ({}: {error}); run pagelift \
                 in QEMU's pid namespace",
                file.display()
            ))
        })?;
        let mut seen = Vec::new();
        for line in text.lines() {
            // cgroups(7): "hierarchy-ID:controller-list:cgroup-path"; version 2 has "0::path".
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let mount = if controllers.is_empty() {
                &self.v2
            } else if controllers.split(',').any(|name| name == "cpu") {
                &self.v1_cpu
            } else {
                continue;
            };
            let Some(mount) = mount else { continue };
            let Ok(below) = Path::new(path).strip_prefix(&mount.root) else {
                continue;
            };
            let folder = mount.point.join(below);
            if below.as_os_str().is_empty() {
                seen.push(format!("{} is the root, which has none", folder.display()));
            } else if quota::is_in(&folder) {
                return Ok(folder);
            } else {
                let folder = folder.display();
                seen.push(format!("{folder} has no cpu.max nor cpu.cfs_quota_us"));
            }
        }
        if seen.is_empty() {
            seen.push("no hierarchy with the controller cpu is mounted".into());
        }
        Err(ThrottleError::NoCgroup(format!(
            "thread {tid}: {}; start QEMU in a cgroup of its own with the controller cpu \
             (systemd-run --scope -p CPUWeight=100 ...)",
            seen.join(", ")
        )))
    }

    /// Refuses a cgroup that holds threads of others than `pid`, itself or below.
    pub(super) fn check_occupants(&self, group: &Path, pid: u32) -> Result<(), ThrottleError> {
        let list = ["cgroup.threads", "tasks"]
            .map(|name| group.join(name))
            .into_iter()
            .find(|path| path.exists())
            .ok_or_else(|| ThrottleError::Cgroup {
                path: group.to_owned(),
                reason: "it does not tell which threads it holds; is it a cgroup?".into(),
            })?;
        let text = read(&list)?;
        let own_threads = self.proc.join(format!("{pid}/task"));
        // A thread that has just ended is nobody else's; 0 is one of another pid namespace
        // (cgroup-v2.rst, "cgroup.procs").
        let is_foreign = |tid: &&str| {
            let exists = *tid == "0" || self.proc.join(tid).join("cgroup").exists();
            exists && !own_threads.join(tid).exists()
        };
        if let Some(tid) = text.split_whitespace().find(is_foreign) {
            return Err(ThrottleError::Cgroup {
                path: group.to_owned(),
                reason: format!(
                    "thread {tid} in it is not of QEMU process {pid} and would be slowed, too; \
                     start QEMU in a cgroup of its own, or throttle by the agent"
                ),
            });
        }
        let entries = fs::read_dir(group).map_err(|source| file_error(group, source))?;
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.check_occupants(&entry.path(), pid)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_in_mountinfo() {
        let mounts = CgroupMounts::parse(
            "22 1 0:20 / /proc rw - proc proc rw\n\
             25 24 0:22 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n\
             27 24 0:24 /box /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             28 24 0:25 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
             nonsense\n",
        );
        let (v2, v1) = (mounts.v2.unwrap(), mounts.v1_cpu.unwrap());
        assert_eq!(v2.point, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(v2.root, Path::new("/"));
        assert_eq!(v1.point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(v1.root, Path::new("/box"));
    }
}
