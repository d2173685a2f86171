//! Quotas of cgroups: on a tree of plain files that looks like one, and on this machine's own
//! where it lets the test make a cgroup.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pagelift_control::throttle::{Actuator, CgroupMounts, CgroupThrottle, ThrottleError};
use pagelift_engine::converge::ThrottleShare;
use tempfile::TempDir;

/// The process that a fake tree holds, with vCPU threads 101 and 102.
const PID: u32 = 100;

/// In the environment of this binary when it is to throttle the tree there until it is killed.
const ROLE_TREE: &str = "PAGELIFT_TEST_TREE";

const PATIENCE: Duration = Duration::from_secs(60);

/// A tree of files as the kernel shows them.
struct Tree(TempDir);

impl Tree {
    /// Threads and the cgroups that they are in.
    fn new(is_v2: bool, threads: &[(u32, u32, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for &(pid, tid, group) in threads {
            for task in [pid, tid] {
                // A thread's number names a process as well, though no listing shows it.
                tree.write(&format!("proc/{task}/cgroup"), "");
            }
            let line = if is_v2 {
                format!("1:name=systemd:/\n0::{group}\n")
            } else {
                format!("4:cpu,cpuacct:{group}\n0::/\n")
            };
            tree.write(&format!("proc/{pid}/task/{tid}/cgroup"), &line);
            let list = format!(
                "cg{group}/{}",
                if is_v2 { "cgroup.threads" } else { "tasks" }
            );
            let before = fs::read_to_string(tree.path(&list)).unwrap_or_default();
            tree.write(&list, &format!("{before}{tid}\n"));
            if is_v2 {
                tree.write(&format!("cg{group}/cpu.max"), "max 100000\n");
            } else {
                tree.write(&format!("cg{group}/cpu.cfs_quota_us"), "-1\n");
                tree.write(&format!("cg{group}/cpu.cfs_period_us"), "100000\n");
            }
        }
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn find(&self, vcpus: &[u32]) -> Result<CgroupThrottle, ThrottleError> {
        find_in(self.0.path(), vcpus)
    }
}

fn find_in(tree: &Path, vcpus: &[u32]) -> Result<CgroupThrottle, ThrottleError> {
    let groups = tree.join("cg");
    // The hierarchy of the other version is mounted too, without this controller.
    let mounts = CgroupMounts::at(&tree.join("proc"), Some(&groups), Some(&groups));
    CgroupThrottle::find(&mounts, PID, vcpus)
}

/// Slows each vCPU by its share, about once in 10 ms.
fn apply(throttle: &mut CgroupThrottle, permille: &[u16]) -> Result<(), ThrottleError> {
    let shares: Vec<_> = permille
        .iter()
        .copied()
        .map(ThrottleShare::permille)
        .collect();
    throttle.apply(&shares, Duration::from_millis(10))
}

#[test]
fn a_qemu_alone_in_its_group_is_slowed_as_a_whole() {
    let tree = Tree::new(
        true,
        &[(PID, PID, "/vm"), (PID, 101, "/vm"), (PID, 102, "/vm")],
    );
    let mut throttle = tree.find(&[101, 102]).unwrap();
    assert_eq!(tree.read("cg/vm/cpu.max"), "max 100000");
    assert!(throttle.slows_qemu() && !throttle.is_per_vcpu());
    let said = format!(
        "the quotas of {} (all vCPUs alike)",
        tree.path("cg/vm").display()
    );
    assert_eq!(throttle.to_string(), said);
    apply(&mut throttle, &[500, 500]).unwrap();
    assert_eq!(tree.read("cg/vm/cpu.max"), "10000 10000");
    apply(&mut throttle, &[990, 990]).unwrap();
    assert_eq!(tree.read("cg/vm/cpu.max"), "1000 50000");
    throttle.release();
    assert_eq!(tree.read("cg/vm/cpu.max"), "max 100000");

    apply(&mut throttle, &[300, 300]).unwrap();
    let error = apply(&mut throttle, &[300, 0]).unwrap_err();
    assert!(
        error.to_string().contains("each by its own share"),
        "{error}"
    );
    assert_eq!(
        tree.read("cg/vm/cpu.max"),
        "max 100000",
        "nothing is half done"
    );
    let error = apply(&mut throttle, &[300]).unwrap_err();
    assert!(matches!(error, ThrottleError::VcpuCount { .. }), "{error}");
}

#[test]
fn vcpus_in_groups_of_their_own_are_slowed_one_by_one() {
    for is_v2 in [true, false] {
        let tree = Tree::new(
            is_v2,
            &[
                (PID, PID, "/vm/emulator"),
                (PID, 101, "/vm/vcpu0"),
                (PID, 102, "/vm/vcpu1"),
            ],
        );
        let limits = || {
            ["vcpu0", "vcpu1", "emulator"].map(|name| {
                if is_v2 {
                    return tree.read(&format!("cg/vm/{name}/cpu.max"));
                }
                let file = |kind| tree.read(&format!("cg/vm/{name}/cpu.cfs_{kind}_us"));
                format!("{} {}", file("quota").replace("-1", "max"), file("period"))
            })
        };
        // libvirt's own limit on one of them.
        if is_v2 {
            tree.write("cg/vm/vcpu1/cpu.max", "40000 100000\n");
        } else {
            tree.write("cg/vm/vcpu1/cpu.cfs_quota_us", "40000\n");
        }
        let before = limits();
        assert_eq!(before, ["max 100000", "40000 100000", "max 100000"]);

        let mut throttle = tree.find(&[101, 102]).unwrap();
        assert!(throttle.is_per_vcpu() && !throttle.slows_qemu());
        assert!(
            throttle
                .to_string()
                .ends_with("/vcpu1 (each vCPU by its own share)")
        );
        apply(&mut throttle, &[800, 500]).unwrap();
        assert_eq!(limits(), ["2000 10000", "2000 10000", "max 100000"]);
        apply(&mut throttle, &[0, 900]).unwrap();
        assert_eq!(limits(), ["max 100000", "1000 25000", "max 100000"]);
        drop(throttle);
        assert_eq!(limits(), before);
    }
}

#[test]
fn groups_that_are_not_the_guests_alone_are_refused() {
    let threads = [(PID, 101, "/vm"), (PID, 102, "/vm/x"), (7, 7, "/vm/x/y")];
    let tree = Tree::new(true, &threads);
    let error = tree.find(&[101]).unwrap_err().to_string();
    assert!(
        error.contains("thread 7 in it is not of QEMU process 100"),
        "{error}"
    );
    let tree = Tree::new(true, &threads[..2]);
    let error = tree.find(&[101, 102]).unwrap_err().to_string();
    assert!(error.contains("two quotas"), "{error}");

    let tree = Tree::new(true, &[(PID, 101, "/")]);
    let error = tree.find(&[101]).unwrap_err().to_string();
    assert!(error.contains("the root"), "{error}");
    let tree = Tree::new(true, &threads[..1]);
    fs::remove_file(tree.path("cg/vm/cpu.max")).unwrap();
    let error = tree.find(&[101]).unwrap_err().to_string();
    assert!(error.contains("cpu.max nor cpu.cfs_quota_us"), "{error}");
    assert!(tree.find(&[]).is_err());
    let error = tree.find(&[999]).unwrap_err().to_string();
    assert!(
        error.contains("thread 999 of QEMU process 100 is not seen"),
        "{error}"
    );

    // What the kernel shows of a thread in another pid namespace.
    let tree = Tree::new(true, &threads[..1]);
    tree.write("cg/vm/cgroup.threads", "0\n101\n");
    let error = tree.find(&[101]).unwrap_err().to_string();
    assert!(error.contains("thread 0 in it"), "{error}");
}

#[test]
fn a_group_whose_quota_cannot_be_written_is_refused() {
    let tree = Tree::new(true, &[(PID, 101, "/vm")]);
    let file = tree.path("cg/vm/cpu.max");
    fs::remove_file(&file).unwrap();
    // Nobody may open this one for writing, root neither.
    std::os::unix::fs::symlink("/sys/kernel/uevent_seqnum", &file).unwrap();
    let error = tree.find(&[101]).unwrap_err().to_string();
    let group = tree.path("cg/vm");
    let said = format!(
        "cgroup {}: its cpu.max cannot be written: ",
        group.display()
    );
    assert!(error.starts_with(&said), "{error}");
    assert!(
        error.contains("root") && error.ends_with("throttle by the agent"),
        "{error}"
    );

    let tree = Tree::new(false, &[(PID, 101, "/vm")]);
    fs::remove_file(tree.path("cg/vm/cpu.cfs_period_us")).unwrap();
    let error = tree.find(&[101]).unwrap_err().to_string();
    assert!(
        error.contains("its cpu.cfs_period_us cannot be written"),
        "{error}"
    );
}

#[test]
fn a_quota_in_force_is_not_written_again() {
    let tree = Tree::new(true, &[(PID, 101, "/a"), (PID, 102, "/b")]);
    let mut throttle = tree.find(&[101, 102]).unwrap();
    apply(&mut throttle, &[500, 500]).unwrap();
    tree.write("cg/a/cpu.max", "as it was");
    apply(&mut throttle, &[500, 800]).unwrap();
    assert_eq!(tree.read("cg/a/cpu.max"), "as it was");
    assert_eq!(tree.read("cg/b/cpu.max"), "2000 10000");
    throttle.release();
    apply(&mut throttle, &[500, 500]).unwrap();
    assert_eq!(tree.read("cg/a/cpu.max"), "5000 10000");
}

#[test]
fn vcpus_that_share_a_thread_have_one_processor() {
    let tree = Tree::new(true, &[(PID, PID, "/vm"), (PID, 101, "/vm")]);
    let mut throttle = tree.find(&[101, 101]).unwrap();
    apply(&mut throttle, &[500, 500]).unwrap();
    assert_eq!(tree.read("cg/vm/cpu.max"), "5000 10000");
}

#[test]
fn a_quota_that_cannot_be_set_leaves_the_others_as_they_were() {
    let tree = Tree::new(true, &[(PID, 101, "/a"), (PID, 102, "/b")]);
    let mut throttle = tree.find(&[101, 102]).unwrap();
    apply(&mut throttle, &[500, 500]).unwrap();
    // The second vCPU is unplugged, and its cgroup with it.
    fs::remove_dir_all(tree.path("cg/b")).unwrap();
    let error = apply(&mut throttle, &[600, 600]).unwrap_err();
    assert!(matches!(error, ThrottleError::File { .. }), "{error}");
    assert_eq!(tree.read("cg/a/cpu.max"), "max 100000");
    assert!(!tree.path("cg/b").exists());
}

#[test]
fn the_guard_puts_quotas_back_when_pagelift_is_killed() {
    for is_v2 in [true, false] {
        let tree = Tree::new(is_v2, &[(PID, 101, "/vm")]);
        let mut client = Reaped(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "role", "--nocapture"])
                .env(ROLE_TREE, tree.0.path())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let said = BufReader::new(client.0.stdout.take().unwrap());
        assert!(said.lines().any(|line| line.unwrap().contains("throttled")));
        let file = if is_v2 { "cpu.max" } else { "cpu.cfs_quota_us" };
        let (limited, before) = if is_v2 {
            ("1000 10000", "max 100000")
        } else {
            ("1000", "-1")
        };
        assert_eq!(tree.read(&format!("cg/vm/{file}")), limited);
        client.0.kill().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while tree.read(&format!("cg/vm/{file}")) != before {
            assert!(Instant::now() < deadline, "the guard does nothing");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What this binary does when it is run as a helper; nothing in an ordinary run.
#[test]
fn role() {
    let Some(tree) = std::env::var_os(ROLE_TREE) else {
        return;
    };
    let mut throttle = find_in(Path::new(&tree), &[101]).unwrap();
    apply(&mut throttle, &[900]).unwrap();
    println!("throttled");
    thread::sleep(PATIENCE);
}

/// A process that is ended with the test.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cgroup of this machine; removed with the test.
struct RealGroup(PathBuf);

impl RealGroup {
    /// Makes one below the first hierarchy that has a quota.
    fn new() -> Option<Self> {
        let name = format!("plt-{}-throttle", std::process::id());
        [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/cpu",
            "/sys/fs/cgroup/cpu,cpuacct",
        ]
        .iter()
        .map(|root| Self(Path::new(root).join(&name)))
        .find(|group| {
            // On a tmpfs that carries hierarchies of version 1 a folder is just a folder.
            fs::create_dir(&group.0).is_ok()
                && ["cpu.max", "cpu.cfs_quota_us"]
                    .iter()
                    .any(|file| group.0.join(file).exists())
        })
    }

    fn limit(&self) -> String {
        ["cpu.max", "cpu.cfs_quota_us"]
            .iter()
            .find_map(|file| fs::read_to_string(self.0.join(file)).ok())
            .unwrap()
    }
}

impl Drop for RealGroup {
    fn drop(&mut self) {
        // Empty only when the process in it has been reaped.
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn the_kernel_keeps_the_quota() {
    let Some(group) = RealGroup::new() else {
        eprintln!("SKIP: no cgroup with the controller cpu can be made here; run as root");
        return;
    };
    let before = group.limit();
    let busy = Command::new("/bin/sh")
        .args(["-c", "while :; do :; done"])
        .spawn();
    let busy = Reaped(busy.unwrap());
    let pid = busy.0.id();
    fs::write(group.0.join("cgroup.procs"), pid.to_string()).unwrap();

    let mounts = CgroupMounts::of_host().unwrap();
    let mut throttle = CgroupThrottle::find(&mounts, pid, &[pid]).unwrap();
    apply(&mut throttle, &[900]).unwrap();
    assert_ne!(group.limit(), before);
    let cpu_ns = || {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    // The quota is a ceiling whatever else runs: it needs five times of it to fail.
    let (start, start_ns) = (Instant::now(), cpu_ns());
    thread::sleep(Duration::from_secs(1));
    let used_ns = u128::from(cpu_ns() - start_ns);
    assert!(used_ns < start.elapsed().as_nanos() / 2, "{used_ns} ns");
    throttle.release();
    assert_eq!(group.limit(), before);
}
