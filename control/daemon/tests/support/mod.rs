//! A daemon in a directory of its own, and clients of it.

#![allow(dead_code, reason = "each test program uses its part")]

mod client;
pub(crate) mod moves;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pagelift_rpc::calls::{AuthList, DomainCreate, DomainDefineXml, DomainLookupByUuid};
use pagelift_rpc::message::Message;
use pagelift_rpc::types::Domain;
use pagelift_tests::{PATIENCE, Skip};
use tempfile::TempDir;

#[allow(unused_imports, reason = "each test program uses its part")]
pub(crate) use client::{Client, open_args, parts, result};

/// A pageliftd that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    dir: TempDir,
    child: Child,
    more: String,
}

impl Daemon {
    /// One with `more` in its configuration, in which `@DIR@` is where everything of it is.
    pub(crate) fn start(more: &str) -> Self {
        Self::start_with(more, &[])
    }

    /// As [`start`](Self::start), with more in its environment.
    pub(crate) fn start_with(more: &str, environment: &[(&str, &Path)]) -> Self {
        let dir = tempfile::Builder::new().prefix("plt-").tempdir().unwrap();
        let child = Self::spawn(dir.path(), more, environment);
        let more = more.to_owned();
        let daemon = Self { dir, child, more };
        daemon.wait_ready();
        daemon
    }

    fn spawn(dir: &Path, more: &str, environment: &[(&str, &Path)]) -> Child {
        let at = dir.display();
        let more = more.replace("@DIR@", &at.to_string());
        let config = format!(
            "[paths]\nstate = \"{at}/state\"\nrun = \"{at}/run\"\nlog = \"{at}/log\"\n\n{more}\n"
        );
        std::fs::write(dir.join("pageliftd.toml"), config).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("pageliftd.log"))
            .unwrap();
        Command::new(env!("CARGO_BIN_EXE_pageliftd"))
            .arg("--config")
            .arg(dir.join("pageliftd.toml"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Waits until it answers. That it can be connected to says nothing: a child of a daemon that was
    /// killed may have the socket.
    fn wait_ready(&self) {
        let asked = Message::call::<AuthList>(0, &()).encode().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(socket) = UnixStream::connect(self.read_only_socket()) {
                let mut client = Client::of(socket);
                if client.try_send(&asked) && client.receive().is_some() {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where everything of it is.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/pageliftd-sock")
    }

    pub(crate) fn read_only_socket(&self) -> PathBuf {
        self.dir.path().join("run/pageliftd-sock-ro")
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("pageliftd.log")).unwrap_or_default()
    }

    /// Waits until it has logged `text`.
    pub(crate) fn wait_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "not {text:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The port of the TCP address (`tls` false) or TLS address that it listens at.
    pub(crate) fn port(&self, tls: bool) -> u16 {
        let mark = if tls {
            "listens at tls 127."
        } else {
            "listens at 127."
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(mark)) {
                return line.rsplit(':').next().unwrap().parse().unwrap();
            }
            assert!(Instant::now() < deadline, "no address:\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs virsh, connected to it.
    pub(crate) fn virsh(&self, args: &[&str]) -> Output {
        virsh_at(
            &format!("qemu+unix:///system?socket={}", self.socket().display()),
            args,
        )
    }

    /// What virsh printed, which must have succeeded.
    pub(crate) fn virsh_ok(&self, args: &[&str]) -> String {
        let output = self.virsh(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "virsh {args:?}: {out}{err}\n{}",
            self.log()
        );
        out
    }

    /// Defines and starts a guest, without virsh; its name.
    pub(crate) fn start_guest(&self, xml: &str) -> Domain {
        let mut client = Client::open(self);
        let domain = client.call::<DomainDefineXml>(&xml.to_owned()).unwrap();
        client.call::<DomainCreate>(&domain).unwrap();
        client.call::<DomainLookupByUuid>(&domain.uuid).unwrap()
    }

    /// What virsh complained of, which must have failed.
    pub(crate) fn virsh_fails(&self, args: &[&str]) -> String {
        let output = self.virsh(args);
        let out = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(1),
            "virsh {args:?}: {out}\n{}",
            self.log()
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Daemon {
    /// The processes of its guests.
    pub(crate) fn qemus(&self) -> Vec<u32> {
        let mark = self.dir.path().display().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("charmonitor") && line.contains(&mark)
        })
        .collect()
    }

    /// Writes a description into a file, for virsh.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Kills it without a chance to do anything, and starts it again.
    pub(crate) fn crash(&mut self) {
        self.crash_while(|_| ());
    }

    /// As [`crash`](Self::crash), with something that happens while there is none.
    pub(crate) fn crash_while(&mut self, meanwhile: impl FnOnce(&Self)) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        meanwhile(self);
        self.child = Self::spawn(self.dir.path(), &self.more, &[]);
        self.wait_ready();
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        let asked = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(asked.unwrap().success());
    }

    /// Kills the processes of its guests.
    pub(crate) fn kill_qemus(&self) {
        for pid in self.qemus() {
            let _gone = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.qemus().is_empty() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
        self.kill_qemus();
    }
}

/// Runs virsh, connected to `uri`.
pub(crate) fn virsh_at(uri: &str, args: &[&str]) -> Output {
    Command::new("timeout")
        .args(["60", "virsh", "-c", uri])
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Whether there is a QEMU.
pub(crate) fn qemu() -> Result<(), Skip> {
    match Command::new("/usr/bin/qemu-system-x86_64")
        .arg("--version")
        .output()
    {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Skip(
            "no qemu-system-x86_64; apt-get install qemu-system-x86".into(),
        )),
    }
}

/// A guest that boots nothing: its firmware looks for a disk, for ever.
pub(crate) fn guest_xml(name: &str, number: u8) -> String {
    format!(
        "<domain type='qemu'>\n  <name>{name}</name>\n\
         <uuid>aaaaaaaa-0000-4000-8000-0000000000{number:02x}</uuid>\n\
         <memory unit='KiB'>32768</memory>\n<vcpu>1</vcpu>\n\
         <os><type arch='x86_64' machine='pc'>hvm</type></os>\n\
         <features><acpi/></features>\n<on_crash>destroy</on_crash>\n\
         <devices><serial type='null'><target port='0'/></serial></devices>\n</domain>\n"
    )
}

/// Whether there is a virsh.
pub(crate) fn virsh() -> Result<(), Skip> {
    let version = Command::new("virsh").arg("--version").output();
    match version {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Skip("no virsh; apt-get install libvirt-clients".into())),
    }
}
