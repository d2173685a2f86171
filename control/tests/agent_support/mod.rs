//! Starts QEMU under the agent, speaks a little QMP, and cleans up whatever happens.

pub(super) mod uffd;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use pagelift_agent_protocol::{Name, RollbackStep};
use pagelift_control::agent_client::{AgentClient, AgentError};
use pagelift_control::driver::qemu::command_line::{self, MemoryIn};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Generous: the machine may be busy with anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Environment variables that carry a role's arguments.
const ROLE: &str = "PAGELIFT_TEST_ROLE";
const ARGS: &str = "PAGELIFT_TEST_ARGS";
const AGENT: &str = "PAGELIFT_TEST_AGENT";
const PID: &str = "PAGELIFT_TEST_PID";
const DIR: &str = "PAGELIFT_TEST_DIR";

/// What this binary does when it is run as a helper of a test; nothing in an ordinary run.
#[test]
fn roles() {
    let text = |name: &str| env::var(name).expect("the test that started this role set it");
    let connect = || AgentClient::connect(text(PID).parse().expect("a process id"));
    match env::var(ROLE).as_deref() {
        Ok("run") => {
            let args: Vec<OsString> = text(ARGS).split('\n').map(OsString::from).collect();
            let Err(error) = command_line::run(args, Path::new(&text(AGENT)), MemoryIn::Nameless);
            panic!("{error}");
        }
        Ok("hello") => match connect().and_then(|mut client| client.hello()) {
            Ok(hello) => println!("{hello:?}"),
            Err(error) => println!("{error}"),
        },
        Ok(role @ ("keep" | "clear")) => {
            let dir = PathBuf::from(text(DIR));
            let script_path = dir.join("rollback.sock");
            // As a client does that uses the monitor itself until it is killed.
            let _monitor = UnixStream::connect(&script_path).unwrap();
            let mut client = connect().unwrap();
            let unknown = Name::new("no-such-capability").unwrap();
            let steps = [
                RollbackStep::SetCapabilities(vec![(unknown, true)]),
                RollbackStep::Continue,
            ];
            client.set_rollback(&script_path, &steps).unwrap();
            if role == "clear" {
                client.clear_rollback().unwrap();
            }
            fs::write(dir.join("ready"), "").unwrap();
            thread::sleep(PATIENCE);
        }
        _ => {}
    }
}

/// This binary in the role `role`.
pub(super) fn role_command(role: &str) -> Command {
    role_command_through(&[], role)
}

/// The same, started by the command `wrapper`.
pub(super) fn role_command_through(wrapper: &[&str], role: &str) -> Command {
    let mut words: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
    words.push(env::current_exe().unwrap().into());
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["--exact", "agent_support::roles", "--nocapture"])
        .env(ROLE, role)
        .stdin(Stdio::null());
    command
}

/// Whether QEMU is there; says that the test is skipped if not.
pub(super) fn have_qemu() -> bool {
    let found = Command::new("qemu-system-x86_64").arg("--version").output();
    if found.is_err() {
        eprintln!("SKIP: qemu-system-x86_64 is not installed");
    }
    found.is_ok()
}

/// The agent's library, built on first use into the target folder of this test.
pub(super) fn agent_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // <target>/<profile>/deps/<this binary>
        let binary = env::current_exe().unwrap();
        let target = binary.ancestors().nth(3).unwrap();
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--package", "pagelift-agent"])
            .arg("--target-dir")
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "the agent builds");
        target.join("debug/libpagelift_agent.so")
    })
}

/// Waits until `is_so`.
pub(super) fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(wait(is_so), "waited in vain for {what}");
}

fn wait(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

/// A QEMU process; killed when dropped.
pub(super) struct Vm {
    pid: u32,
    /// QEMU, or what has become QEMU's parent and is gone if it daemonized.
    child: Child,
    dir: TempDir,
}

impl Vm {
    /// Starts a small machine with `extra` arguments; `None` if QEMU is missing.
    pub(super) fn start(extra: &[&str]) -> Option<Self> {
        Self::start_at(extra, false, None)
    }

    /// Starts one that belongs to the user `uid`.
    pub(super) fn start_as(uid: u32) -> Option<Self> {
        Self::start_at(&[], false, Some(uid))
    }

    /// Starts one that daemonizes itself.
    pub(super) fn start_daemon() -> Option<Self> {
        Self::start_at(&["-daemonize"], true, None)
    }

    fn start_at(extra: &[&str], is_daemon: bool, uid: Option<u32>) -> Option<Self> {
        if !have_qemu() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let monitor = |name: &str| format!("unix:{},server=on,wait=off", at(name));
        let mut args: Vec<String> = "qemu-system-x86_64 -display none -nodefaults -machine pc \
                                     -accel tcg"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        if !extra.contains(&"-m") {
            args.extend(["-m".into(), "64".into()]);
        }
        args.extend(["-pidfile".into(), at("pid")]);
        args.extend(["-qmp".into(), monitor("qmp.sock")]);
        args.extend(["-qmp".into(), monitor("rollback.sock")]);
        args.extend(extra.iter().map(|arg| (*arg).to_owned()));
        let errors = fs::File::create(dir.path().join("stderr")).unwrap();
        let mut command = role_command("run");
        if let Some(uid) = uid {
            chown(dir.path(), Some(uid), Some(uid)).unwrap();
            command.uid(uid).gid(uid);
        }
        let child = command
            .env(ARGS, args.join("\n"))
            .env(AGENT, agent_library())
            // Where the agent makes its socket.
            .env("TMPDIR", dir.path())
            .env_remove("RUNTIME_DIRECTORY")
            .env_remove("XDG_RUNTIME_DIR")
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut vm = Self {
            pid: child.id(),
            child,
            dir,
        };
        if is_daemon {
            let status = vm.child.wait().unwrap();
            assert!(status.success(), "{}", vm.standard_error());
            let pid = fs::read_to_string(vm.path("pid")).unwrap();
            vm.pid = pid.trim().parse().unwrap();
        }
        vm.wait_for_monitor();
        Some(vm)
    }

    /// Has all of QEMU's threads stand still until it is sent SIGCONT.
    pub(super) fn stand_still(&self) -> Pid {
        let pid = Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        // The signal is with one thread first.
        wait_until("QEMU to stand still", || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
            threads.flatten().all(|thread| {
                let stat = fs::read_to_string(thread.path().join("stat"));
                stat.map_or(true, |stat| stat.contains(") T "))
            })
        });
        pid
    }

    /// Waits until QEMU answers a command: its socket is there before its RAM is.
    fn wait_for_monitor(&mut self) {
        let path = self.path("qmp.sock");
        wait(|| {
            let has_ended = matches!(self.child.try_wait(), Ok(Some(status)) if !status.success());
            has_ended || UnixStream::connect(&path).is_ok()
        });
        assert!(path.exists(), "QEMU starts: {}", self.standard_error());
        qmp(&path, "query-status");
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Where the agent's socket can be connected to: one of QEMU's descriptors.
    pub(super) fn agent_socket(&self) -> PathBuf {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap();
        let mut paths = descriptors.map(|entry| entry.unwrap().path());
        let is_it = |path: &PathBuf| {
            let target = fs::read_link(path).unwrap_or_default();
            target
                .to_string_lossy()
                .ends_with("/pagelift-agent (deleted)")
        };
        paths.find(is_it).expect("QEMU holds the agent's socket")
    }

    /// A file of this machine's folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What QEMU and the agent said on standard error so far.
    pub(super) fn standard_error(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap()
    }

    /// Runs a QMP command without arguments; its return value.
    pub(super) fn execute(&mut self, command: &str) -> Value {
        qmp(&self.path("qmp.sock"), command)
    }

    /// The guest's run state.
    pub(super) fn status(&self) -> String {
        let status = qmp(&self.path("qmp.sock"), "query-status");
        status["status"].as_str().unwrap().to_owned()
    }

    /// Starts a client process that sets a rollback script, and waits until it has.
    pub(super) fn spawn_client(&self, role: &str) -> Client {
        let child = role_command(role)
            .env(PID, self.pid.to_string())
            .env(DIR, self.dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut client = Client(child);
        let ready = self.path("ready");
        wait_until("the client to set its script", || {
            ready.exists() || client.0.try_wait().unwrap().is_some()
        });
        assert!(ready.exists(), "the client set its script");
        client
    }

    /// A client that is served after one that has just closed its connection. A process that
    /// another test is just starting may hold a copy of that until it executes: so long the agent
    /// is busy.
    pub(super) fn next_client(&self) -> AgentClient {
        let mut served = None;
        wait_until("the agent to be free", || {
            let mut client = AgentClient::connect(self.pid).unwrap();
            match client.hello() {
                Ok(_) => served = Some(client),
                Err(AgentError::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            served.is_some()
        });
        served.unwrap()
    }

    /// Where QEMU has mapped the guest's RAM.
    pub(super) fn ram_mapping(&self) -> Range<u64> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap();
        let line = maps
            .lines()
            .find(|line| line.contains("rw-s") && line.contains("memfd:pagelift-pc.ram"))
            .unwrap_or_else(|| panic!("the guest's RAM is mapped:\n{maps}"));
        range_of(line).unwrap()
    }

    /// Whether the kernel tracks writes at `address` by a userfaultfd: flag `uw` in smaps.
    pub(super) fn is_write_protect_tracked(&self, address: u64) -> bool {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", self.pid)).unwrap();
        smaps
            .lines()
            .skip_while(|line| range_of(line).is_none_or(|range| !range.contains(&address)))
            .find_map(|line| line.strip_prefix("VmFlags:"))
            .unwrap()
            .split_whitespace()
            .any(|flag| flag == "uw")
    }
}

/// A client process; killed when dropped.
pub(super) struct Client(Child);

impl Client {
    /// `kill -9`; returns when the process and its sockets are gone.
    pub(super) fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.pid == self.child.id() {
            let _ = self.child.kill();
        } else if let Some(pid) = Pid::from_raw(self.pid.cast_signed()) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
        // A daemon is reaped by its new parent, perhaps late: dead is enough.
        wait(|| {
            fs::read_to_string(format!("/proc/{}/stat", self.pid))
                .map_or(true, |stat| stat.contains(") Z ") || stat.contains(") X "))
        });
    }
}

/// The addresses at the front of a line of /proc/PID/maps.
fn range_of(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

fn qmp(path: &Path, command: &str) -> Value {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut reply = Value::Null;
    for command in ["qmp_capabilities", command] {
        writeln!(stream, "{}", json!({ "execute": command })).unwrap();
        reply = loop {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            assert!(line.get("error").is_none(), "{command}: {line}");
            if let Some(value) = line.get("return") {
                break value.clone();
            }
        };
    }
    reply
}
