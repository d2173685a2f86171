//! Where guests are sent from and to: QEMUs, the two programs, and the link between them.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pagelift_tests::run::Run;
use pagelift_tests::{Bed, Builder, Images, NetPair, Qemu, Side, Workload, program};

use crate::guest::Guest;

const MIB: u64 = 1 << 20;

/// By what the two programs know each other.
const TOKEN: &str = "00112233445566778899aabbccddeeff";

/// Settings of `--compress`, which attempts take in turn.
pub(crate) const COMPRESS: [&str; 4] = ["auto", "lz4", "xbzrle", "zstd"];

/// What strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// The link is cut for good.
    Cut,
    /// The link is cut, and whole again after this time.
    CutFor(Duration),
    /// The receiver hangs for this time.
    HangReceiver(Duration),
    /// The sender hangs for this time.
    HangSender(Duration),
    /// A QEMU hangs for this time, its agent with it.
    HangSourceQemu(Duration),
    HangTargetQemu(Duration),
    /// SIGINT.
    InterruptReceiver,
    InterruptSender,
    /// SIGKILL.
    KillReceiver,
    KillSender,
    KillSourceQemu,
    KillTargetQemu,
}

/// Which program stops itself, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Receiver(&'static str),
    Sender(&'static str),
}

/// When the guest is throttled first.
pub(crate) const THROTTLED: Stop = Stop::Sender("throttled");

impl Strike {
    /// How long it lasts, if it ends.
    pub(crate) fn lasts(self) -> Option<Duration> {
        match self {
            Self::CutFor(time)
            | Self::HangReceiver(time)
            | Self::HangSender(time)
            | Self::HangSourceQemu(time)
            | Self::HangTargetQemu(time) => Some(time),
            _ => None,
        }
    }
}

impl Stop {
    /// The point's name.
    pub(crate) fn point(self) -> &'static str {
        match self {
            Self::Receiver(point) | Self::Sender(point) => point,
        }
    }
}

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It writes whole pages all the time, more than is sent: it is throttled, after a while.
    Busy,
    /// It writes a few words, less than is sent, and has a disk that bypasses the page cache.
    Calm,
}

/// What the guests of a test have in common.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    bed: &'a Bed,
    images: Images,
    kind: Kind,
    /// The link, where a test cuts it; otherwise all is on this machine's loopback.
    net: Option<NetPair>,
    pub(crate) workload: Workload,
    /// The file of the guests' disk.
    disk: Option<PathBuf>,
    /// Attempts so far, and which of [`COMPRESS`] the first had.
    attempts: Cell<usize>,
    /// The sender's `--downtime-limit`, if not its default.
    pub(crate) downtime_limit: Option<&'static str>,
    /// QEMUs started so far.
    started: Cell<u32>,
}

impl<'a> Ground<'a> {
    /// Guests of this kind; `turn` says which of [`COMPRESS`] comes first.
    pub(crate) fn new(
        bed: &'a Bed,
        images: Images,
        kind: Kind,
        turn: usize,
        net: Option<NetPair>,
    ) -> Result<Self> {
        let calm = Workload {
            memory_mib: 128,
            fill_bytes: 16 * MIB,
            rate_bytes_per_s: 20 * MIB,
            check_pages: 64,
            seed: 5,
            ..Workload::default()
        };
        let (workload, disk) = match kind {
            Kind::Busy => {
                let busy = Workload {
                    rate_bytes_per_s: u64::MAX,
                    width_bytes: 4096,
                    ..calm
                };
                (busy, None)
            }
            Kind::Calm => {
                let disk = bed.dir().join("disk.img");
                File::create(&disk)?.set_len(MIB)?;
                (calm, Some(disk))
            }
        };
        Ok(Self {
            bed,
            images,
            kind,
            net,
            workload,
            disk,
            attempts: Cell::new(turn),
            downtime_limit: None,
            started: Cell::new(0),
        })
    }

    /// The same with guests that have no disk: none of their own locks keeps a second one from running.
    pub(crate) fn without_disks(self) -> Self {
        Self { disk: None, ..self }
    }

    /// Whether its guests do nothing but write.
    pub(crate) fn is_busy(&self) -> bool {
        self.kind == Kind::Busy
    }

    /// How many disks each of its guests has.
    pub(crate) fn disks(&self) -> usize {
        self.disk.iter().len()
    }

    /// Boots a guest.
    pub(crate) fn boot(&self) -> Result<Guest<'_>> {
        self.boot_with(|builder| builder)
    }

    /// Boots a guest, with something `added` to its description.
    pub(crate) fn boot_with(
        &self,
        added: impl Fn(Builder<'a>) -> Builder<'a>,
    ) -> Result<Guest<'_>> {
        let qemu = added(self.builder(Side::Source)?).start(&self.name("source"))?;
        qemu.wait_ready()?;
        qemu.wait_ticks(2)?;
        Ok(Guest::new(self, qemu))
    }

    /// A QEMU that waits for a guest, with something `added` to its description.
    pub(crate) fn target(&self, added: impl Fn(Builder<'a>) -> Builder<'a>) -> Result<Qemu> {
        let builder = added(self.builder(Side::Target)?);
        let builder = builder.waiting();
        builder.start(&self.name("target"))
    }

    fn builder(&self, side: Side) -> Result<Builder<'a>> {
        let mut builder = Qemu::builder(self.bed, &self.images).workload(&self.workload);
        if let Some(net) = &self.net {
            builder = builder.prefix(net.prefix(side));
        }
        if let Some(disk) = &self.disk {
            let file = disk.display();
            let drive = format!("file={file},format=raw,if=virtio,cache=none");
            builder = builder.arg("-drive").arg(drive);
        }
        let pagelift = program("pagelift")?;
        Ok(builder.prefix([pagelift]).prefix(["run", "--"]))
    }

    fn name(&self, kind: &str) -> String {
        self.started.set(self.started.get() + 1);
        format!("{kind}{}", self.started.get())
    }

    /// The link that can be cut.
    pub(crate) fn link(&self) -> Result<&NetPair> {
        let net = self.net.as_ref();
        net.context("this test has no link of its own")
    }

    /// Whether both sides share one network.
    pub(crate) fn is_one_host(&self) -> bool {
        self.net.is_none()
    }

    /// The sender's options for the next attempt.
    pub(crate) fn next_options(&self) -> Vec<&'static str> {
        let turn = self.attempts.replace(self.attempts.get() + 1);
        let compress = COMPRESS[turn % COMPRESS.len()];
        // Slow enough for a second round.
        let bandwidth = match self.kind {
            Kind::Busy => "40MiB/s",
            Kind::Calm => "100MiB/s",
        };
        let mut options = vec!["--bandwidth", bandwidth, "--compress", compress];
        if self.is_busy() {
            // Half of what its pages take if it is not throttled, and several times what stopping
            // it takes on a machine that has other work.
            options.extend(["--downtime", "200ms"]);
        }
        if let Some(limit) = self.downtime_limit {
            options.extend(["--downtime-limit", limit]);
        }
        if self.disk.is_some() {
            options.push("--buffer-disks");
        }
        options
    }

    /// Starts both programs, sender first in the answer.
    pub(crate) fn programs(
        &self,
        source: &Qemu,
        target: &Qemu,
        options: &[&str],
        stop: Option<Stop>,
    ) -> Result<(Run, Run)> {
        let host = match &self.net {
            Some(net) => net.address(Side::Target).to_string(),
            None => "127.0.0.1".into(),
        };
        let mut command = self.command(Side::Target, "pagelift-receive")?;
        command.arg("--qmp").arg(target.qmp_path());
        command.args(["--json", "--listen", &format!("tcp://{host}:0")]);
        command.env("PAGELIFT_TOKEN", TOKEN);
        if let Some(Stop::Receiver(point)) = stop {
            command.env("PAGELIFT_FAILPOINT", point);
        }
        let mut receiver = Run::start(self.bed, "receive", command)?;
        let uri = receiver.wait_stderr(|text| {
            let (_, rest) = text.split_once("waiting on ")?;
            Some(rest.split_once(' ')?.0.to_owned())
        })?;
        let mut command = self.command(Side::Source, "pagelift-send")?;
        command.arg("--qmp").arg(source.qmp_path());
        command.args(["--json", "--to", &uri]).args(options);
        command.env("PAGELIFT_TOKEN", TOKEN);
        if let Some(Stop::Sender(point)) = stop {
            command.env("PAGELIFT_FAILPOINT", point);
        }
        Ok((Run::start(self.bed, "send", command)?, receiver))
    }

    /// Runs `pagelift settle`, which must succeed.
    pub(crate) fn settled(&self, qmp: &Path, options: &[PathBuf]) -> Result<String> {
        let mut command = self.bed.command(program("pagelift")?);
        command.arg("settle").arg("--qmp").arg(qmp).args(options);
        let ended = Run::start(self.bed, "settle", command)?.wait()?;
        let words = format!("{}{}", ended.stdout, ended.stderr);
        ensure!(ended.status.success(), "pagelift settle: {words}");
        Ok(words)
    }

    /// A sender that is started again does not say that the guest is where it was. Its words.
    pub(crate) fn says_unknown(&self, qemu: &Qemu) -> Result<String> {
        let mut command = self.bed.command(program("pagelift-send")?);
        command.arg("--qmp").arg(qemu.qmp_path());
        command.args(["--json", "--buffer-disks", "--to", "tcp://127.0.0.1:9"]);
        let ended = Run::start(self.bed, "again", command)?.wait()?;
        let place = &ended.json()?["vm_location"];
        ensure!(place == "unknown", "the guest is said to be on {place}");
        ensure!(ended.code() == 4, "exit code {}", ended.code());
        Ok(format!("{}{}", ended.stdout, ended.stderr))
    }

    /// What `pagelift where` finds in the journal of a QEMU; nothing if nothing is recorded.
    pub(crate) fn recorded(&self, qemu: &Qemu) -> Result<String> {
        let mut command = self.bed.command(program("pagelift")?);
        command
            .args(["where", "--json", "--qmp"])
            .arg(qemu.qmp_path());
        let ended = Run::start(self.bed, "where", command)?.wait()?;
        let phase = &ended.json()?["journal"]["phase"];
        Ok(phase.as_str().unwrap_or_default().to_owned())
    }

    fn command(&self, side: Side, name: &str) -> Result<Command> {
        let program = program(name)?;
        Ok(match &self.net {
            Some(net) => net.command(self.bed, side, program),
            None => self.bed.command(program),
        })
    }
}
