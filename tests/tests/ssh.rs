//! A guest that moves with one command, over a real ssh server on loopback.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pagelift_tests::contract::{check_completed, check_failed};
use pagelift_tests::{
    Bed, Finished, PATIENCE, Programs, Qmp, Run, Skip, Workload, free_port, guest_images, require,
};
use serde_json::json;

const MIB: u64 = 1 << 20;
const SSHD: &str = "/usr/sbin/sshd";

/// An ssh server on loopback that knows one key, and the configuration of a client that has it.
struct Server {
    sshd: Child,
    client: PathBuf,
}

impl Server {
    fn start(bed: &Bed) -> Result<Self, Skip> {
        if !Path::new(SSHD).exists() {
            return Err(Skip(format!("there is no {SSHD}")));
        }
        Self::try_start(bed).map_err(|error| Skip(format!("no ssh server: {error:#}")))
    }

    fn try_start(bed: &Bed) -> Result<Self> {
        let dir = bed.dir().join("ssh");
        DirBuilder::new().mode(0o700).create(&dir)?;
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.join(key))
                .status()?;
            ensure!(made.success(), "ssh-keygen");
        }
        fs::copy(dir.join("user.pub"), dir.join("known"))?;
        let port = free_port()?;
        let shown = dir.display();
        fs::write(
            dir.join("server"),
            format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {shown}/host\nPidFile none\n\
                 AuthorizedKeysFile {shown}/known\nStrictModes no\nUsePAM no\n\
                 PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            ),
        )?;
        let client = dir.join("client");
        fs::write(
            &client,
            format!(
                "Host target\nHostName 127.0.0.1\nPort {port}\nIdentityFile {shown}/user\n\
                 IdentitiesOnly yes\nBatchMode yes\nStrictHostKeyChecking no\n\
                 UserKnownHostsFile {shown}/hosts\nGlobalKnownHostsFile none\n"
            ),
        )?;
        if rustix::process::geteuid().is_root() {
            // What its package makes at boot.
            fs::create_dir_all("/run/sshd")?;
        }
        let mut sshd = bed.command(SSHD);
        sshd.args(["-D", "-e", "-f"]).arg(dir.join("server"));
        let log = fs::File::create(dir.join("log"))?;
        let sshd = sshd.stdin(Stdio::null()).stderr(log).spawn()?;
        let server = Self { sshd, client };
        let until = Instant::now() + PATIENCE;
        loop {
            let tried = Command::new("ssh")
                .arg("-F")
                .arg(&server.client)
                .args(["target", "true"])
                .output()?;
            if tried.status.success() {
                return Ok(server);
            }
            let said = String::from_utf8_lossy(&tried.stderr).into_owned();
            ensure!(said.contains("refused") && Instant::now() < until, "{said}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// The value of `--ssh`.
    fn command(&self) -> String {
        format!("ssh -F {}", self.client.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

/// A QEMU whose command line names its files as seen from its folder: another folder is another host.
struct Guest<'a> {
    bed: &'a Bed,
    programs: &'a Programs,
    source: Child,
    here: PathBuf,
    there: PathBuf,
}

impl<'a> Guest<'a> {
    fn start(
        bed: &'a Bed,
        programs: &'a Programs,
        workload: &Workload,
        images: [&Path; 2],
    ) -> Result<Self> {
        let [here, there] = ["here", "there"].map(|name| bed.dir().join(name));
        for folder in [&here, &there] {
            fs::create_dir(folder)?;
            fs::write(folder.join("disk"), [0; 512])?;
        }
        let mut run = programs.command(bed, "pagelift");
        run.args([
            "run",
            "--",
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-machine",
            "pc",
        ]);
        run.arg("-m").arg(format!("{}M", workload.memory_mib));
        run.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-kernel",
        ]);
        run.arg(images[0]).arg("-initrd").arg(images[1]);
        run.arg("-append").arg(workload.kernel_args());
        run.args([
            "-serial",
            "file:console",
            "-qmp",
            "unix:qmp,server=on,wait=off",
        ]);
        run.args([
            "-blockdev",
            r#"{"driver":"file","node-name":"d","filename":"disk"}"#,
        ]);
        run.args(["-device", "virtio-blk-pci,drive=d"]);
        let log = fs::File::create(here.join("log"))?;
        run.current_dir(&here)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log);
        let source = run.spawn()?;
        let guest = Self {
            bed,
            programs,
            source,
            here,
            there,
        };
        guest.wait_console(&guest.here, 2)?;
        Ok(guest)
    }

    /// Waits until the guest has written more than `lines` lines in `folder`.
    fn wait_console(&self, folder: &Path, lines: usize) -> Result<usize> {
        let until = Instant::now() + PATIENCE;
        loop {
            let text = fs::read(folder.join("console")).unwrap_or_default();
            let count = String::from_utf8_lossy(&text).lines().count();
            if count > lines {
                return Ok(count);
            }
            let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            ensure!(Instant::now() < until, "the guest says nothing: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Sends it to the target, with what follows its address.
    fn send(&self, server: &Server, options: &str, further: &[&str]) -> Result<Finished> {
        let receive = self.programs.command(self.bed, "pagelift-receive");
        let receive = receive.get_program().display();
        let mut send = self.programs.command(self.bed, "pagelift-send");
        send.arg("--qmp").arg(self.here.join("qmp"));
        send.args([
            "--ssh",
            &server.command(),
            "--json",
            "--verify",
            "--downtime",
            "5s",
        ]);
        send.arg("--to")
            .arg(format!("ssh://target?receive={receive}{options}"));
        send.args(further);
        Run::start(self.bed, "send", send)?.wait()
    }

    fn there(&self) -> String {
        format!("&dir={}", self.there.display())
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        // Either may have ended, or never begun.
        let _ = Qmp::connect(&self.there.join("qmp"))
            .and_then(|mut qmp| qmp.execute("quit", json!({})));
        let _ = self.source.kill();
        let _ = self.source.wait();
    }
}

/// Processes whose command line has `word`.
fn with_word(word: &str) -> usize {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = all.map(|entry| fs::read(entry.path().join("cmdline")).unwrap_or_default());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(word))
        .count()
}

#[test]
fn a_guest_moves_with_one_command() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let server = require!(Server::start(&bed));
    let programs = Programs::built()?;
    let workload = Workload {
        memory_mib: 160,
        fill_bytes: 32 * MIB,
        rate_bytes_per_s: 4 * MIB,
        ..Workload::default()
    };
    let guest = Guest::start(&bed, &programs, &workload, [&images.kernel, &images.initrd])?;

    // What is not there is named, and nothing is started.
    fs::remove_file(guest.there.join("disk"))?;
    for (options, words) in [
        (guest.there(), "the file disk"),
        (
            format!("{}&qemu=/nowhere/qemu", guest.there()),
            "/nowhere/qemu",
        ),
        ("&dir=/nowhere".to_owned(), "the folder /nowhere"),
        (
            format!("&receive={}", bed.dir().join("none").display()),
            "pagelift-receive is not in PATH",
        ),
    ] {
        let refused = guest.send(&server, &options, &[])?;
        assert_eq!(refused.code(), 1, "{refused:?}");
        let report = refused.json()?;
        let (_, message) = check_failed(&report, "failed");
        assert!(message.contains(words), "{message}");
    }
    fs::write(guest.there.join("disk"), [0; 512])?;

    let bad_qemu = format!("{}&qemu=/bin/false", guest.there());
    let unwilling = guest.send(&server, &bad_qemu, &[])?;
    assert_eq!(unwilling.code(), 1, "{unwilling:?}");
    assert!(
        unwilling.stderr.contains("QEMU did not start"),
        "{unwilling:?}"
    );

    // A move that fails leaves nothing there.
    let slow = [
        "--bandwidth",
        "1MiB/s",
        "--deadline",
        "1s",
        "--compress",
        "none",
    ];
    let failed = guest.send(&server, &guest.there(), &slow)?;
    assert_eq!(failed.code(), 1, "{failed:?}");
    check_failed(&failed.json()?, "failed");
    let until = Instant::now() + PATIENCE;
    while with_word("pagelift-arrival") > 0 {
        ensure!(Instant::now() < until, "what was started there is left");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    let sent = guest.send(&server, &guest.there(), &[])?;
    assert_eq!(sent.code(), 0, "{sent:?}");
    check_completed(&sent.json()?, workload.memory_mib * MIB);
    assert!(sent.stderr.contains("target: "), "{sent:?}");
    let mut qmp = Qmp::connect(&guest.there.join("qmp")).context("the monitor of the same path")?;
    let status = qmp.execute("query-status", json!({}))?;
    assert_eq!(status["status"], "running");
    // Its console goes on there.
    guest.wait_console(&guest.there, 3)?;
    drop(qmp);
    drop(guest);
    drop(server);
    bed.finish();
    Ok(())
}
