//! Real QEMUs for the tests: started without a guest system (the firmware runs and waits), and
//! ended with the test, whatever becomes of it.

#![allow(
    dead_code,
    reason = "each test program uses its own part of what is here"
)]

pub(crate) mod handover;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pagelift_control::qmp::{Address, Qmp, QmpError};
use serde_json::{Value, json};

pub(crate) const RAM_BYTES: u64 = 64 << 20;

/// Generous: the machine that runs this may be busy with other things.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

const PROGRAM: &str = "qemu-system-x86_64";

/// Whether there is a QEMU that can do what the tests need; says so if not.
pub(crate) fn has_qemu() -> bool {
    let output = Command::new(PROGRAM).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let major = text.ok().and_then(|text| {
        let version = text.split("version ").nth(1)?;
        version.split('.').next()?.parse::<u32>().ok()
    });
    let usable = major.is_some_and(|major| major >= 10) && Path::new("/dev/shm").is_dir();
    if !usable {
        eprintln!("SKIP: needs {PROGRAM} 10 or later and /dev/shm");
    }
    usable
}

/// A running QEMU.
pub(crate) struct TestQemu {
    child: Child,
    folder: tempfile::TempDir,
    ram: PathBuf,
}

impl Drop for TestQemu {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
        let _never_made = std::fs::remove_file(&self.ram);
        let mut log = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _nothing_said = stderr.read_to_string(&mut log);
        }
        if std::thread::panicking() {
            eprintln!("QEMU {} said: {log}", self.child.id());
        }
    }
}

impl TestQemu {
    /// A guest whose RAM is a shared file.
    pub(crate) fn start(extra: &[&str]) -> Self {
        let ram = Self::ram_path();
        let object = format!(
            "memory-backend-file,id=pc.ram,size={RAM_BYTES},mem-path={},share=on",
            ram.display()
        );
        let machine = ["-object", &object, "-machine", "pc,memory-backend=pc.ram"];
        Self::start_bare(ram, &[&machine, extra].concat())
    }

    /// A QEMU that waits for such a guest.
    pub(crate) fn start_target(extra: &[&str]) -> Self {
        Self::start(&[&["-incoming", "defer"], extra].concat())
    }

    /// A guest with RAM and machine as told.
    pub(crate) fn start_bare(ram: PathBuf, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let monitor =
            |name: &str| format!("unix:{}/{name},server=on,wait=off", folder.path().display());
        // setpriv ends QEMU with the thread that started it, even if that is killed.
        let child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                PROGRAM,
                "-m",
                "64",
                "-nodefaults",
                "-display",
                "none",
            ])
            .args([
                "-accel",
                "tcg",
                "-qmp",
                &monitor("qmp"),
                "-qmp",
                &monitor("second"),
            ])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let qemu = Self { child, folder, ram };
        let deadline = Instant::now() + LIMIT;
        let second = qemu.monitor("second");
        while let Err(error) = Qmp::connect_within(&second, LIMIT) {
            let starting = matches!(error, QmpError::Connect { .. });
            assert!(starting && Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(10));
        }
        qemu
    }

    /// A name for a RAM file that no other test has.
    pub(crate) fn ram_path() -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("/dev/shm/pagelift-test-{}-{number}", std::process::id()).into()
    }

    /// The monitor for the code under test.
    pub(crate) fn address(&self) -> Address {
        self.monitor("qmp")
    }

    /// Another monitor, to look at QEMU from aside.
    pub(crate) fn second(&self) -> Qmp {
        Qmp::connect_within(&self.monitor("second"), LIMIT).unwrap()
    }

    pub(crate) fn ram_file(&self) -> &Path {
        &self.ram
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends QEMU as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for QEMU to end by itself.
    pub(crate) fn wait_gone(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "QEMU is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn monitor(&self, name: &str) -> Address {
        Address::Unix(self.folder.path().join(name))
    }
}

/// Run state and migration status, asked from aside.
pub(crate) fn state(qemu: &TestQemu) -> (String, String) {
    let qmp = qemu.second();
    let text = |value: Value| value["status"].as_str().unwrap_or("none").to_owned();
    let run = text(qmp.execute("query-status", Value::Null).unwrap());
    (
        run,
        text(qmp.execute("query-migrate", Value::Null).unwrap()),
    )
}

/// All migration settings of a QEMU, to be compared.
pub(crate) fn settings(qemu: &TestQemu) -> Value {
    let qmp = qemu.second();
    let capabilities = qmp
        .execute("query-migrate-capabilities", Value::Null)
        .unwrap();
    let parameters = qmp
        .execute("query-migrate-parameters", Value::Null)
        .unwrap();
    json!([capabilities, parameters])
}
