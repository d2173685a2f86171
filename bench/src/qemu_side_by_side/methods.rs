//! The three ways to move a guest.

use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStderr, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use pagelift_bench::qemu::{configure, listen};
use pagelift_tests::{Bed, PATIENCE, Qemu, program};
use serde::Serialize;
use serde_json::{Value, json};

use crate::account;

/// Who moves the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Method {
    /// QEMU, over one connection.
    Precopy,
    /// QEMU, over its main connection and two more.
    Multifd,
    /// pagelift, over two data connections.
    Pagelift,
}

/// Data connections of multifd and of pagelift.
const CHANNELS: u32 = 2;

/// What a method did, beyond what can be seen from outside.
#[derive(Debug)]
pub(crate) struct Moved {
    /// When the command that starts the move was given.
    pub(crate) began: SystemTime,
    /// QEMU's event when the guest stopped on the source.
    pub(crate) stopped: Value,
    /// Bytes of guest memory on the wire, as the method itself counts them.
    pub(crate) wire_bytes: u64,
    /// Passes over memory, the last included.
    pub(crate) rounds: u64,
    /// CPU seconds of programs other than the two QEMUs, over their whole lives.
    pub(crate) cpu_s: f64,
    /// Life of the sending program.
    pub(crate) process: Option<Duration>,
    /// What it printed.
    pub(crate) report: Option<Value>,
}

impl Method {
    /// All, in the order in which they take turns.
    pub(crate) const ALL: [Self; 3] = [Self::Precopy, Self::Multifd, Self::Pagelift];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Precopy => "QEMU precopy",
            Self::Multifd => "QEMU multifd 2",
            Self::Pagelift => "pagelift",
        }
    }

    /// Prepares a source and a waiting target, up to the command that starts the move.
    pub(crate) fn prepare<'a>(
        self,
        bed: &Bed,
        source: &'a Qemu,
        target: &'a Qemu,
        downtime: Duration,
    ) -> Result<Ready<'a>> {
        match self {
            Self::Precopy | Self::Multifd => {
                let capabilities: &[&str] = match self {
                    Self::Multifd => &["multifd"],
                    _ => &[],
                };
                for qemu in [source, target] {
                    configure(qemu, capabilities, &parameters(downtime))?;
                }
                let uri = listen(target, Ipv4Addr::LOCALHOST)?;
                Ok(Ready::Qemu { source, uri })
            }
            Self::Pagelift => {
                let receiver = Box::new(Receiver::start(bed, source, target, downtime)?);
                Ok(Ready::Pagelift { source, receiver })
            }
        }
    }
}

/// QEMU's settings.
fn parameters(downtime: Duration) -> Value {
    json!({
        // No limit; the default is 128 MiB/s.
        "max-bandwidth": 0,
        "downtime-limit": u64::try_from(downtime.as_millis()).unwrap_or(u64::MAX),
        "multifd-channels": CHANNELS,
    })
}

/// A move that one command starts.
#[derive(Debug)]
pub(crate) enum Ready<'a> {
    /// QEMU's `migrate`, to this address.
    Qemu {
        /// Who is given the command.
        source: &'a Qemu,
        /// The waiting target.
        uri: String,
    },
    /// `pagelift-send`.
    Pagelift {
        /// Where the guest is.
        source: &'a Qemu,
        /// The waiting target.
        receiver: Box<Receiver>,
    },
}

impl Ready<'_> {
    /// Moves the guest; returns when the source has let go of it.
    pub(crate) fn go(self) -> Result<Moved> {
        match self {
            Self::Qemu { source, uri } => {
                let began = SystemTime::now();
                source.execute("migrate", json!({ "uri": uri }))?;
                qemu_moved(source, began)
            }
            Self::Pagelift { source, receiver } => receiver.send(source),
        }
    }
}

/// Waits until QEMU says that the migration is over.
fn qemu_moved(source: &Qemu, began: SystemTime) -> Result<Moved> {
    // The guest stops shortly before the end; asking earlier would only cost QEMU time.
    let deadline = Instant::now() + PATIENCE;
    let stopped = source.wait_event("STOP", PATIENCE)?;
    loop {
        let status = source.execute("query-migrate", json!({}))?;
        match status["status"].as_str() {
            Some("completed") => {
                let ram = |key: &str| status["ram"][key].as_u64().unwrap_or_default();
                return Ok(Moved {
                    began,
                    stopped,
                    wire_bytes: ram("transferred"),
                    rounds: ram("dirty-sync-count"),
                    cpu_s: 0.0,
                    process: None,
                    report: None,
                });
            }
            Some("failed" | "cancelled") | None => bail!("QEMU's migration: {status}"),
            Some(_) if Instant::now() >= deadline => bail!("it does not end: {status}"),
            Some(_) => sleep(Duration::from_millis(1)),
        }
    }
}

/// A `pagelift-receive` that waits, and the `pagelift-send` that is to reach it.
#[derive(Debug)]
pub(crate) struct Receiver {
    receiver: Child,
    words: BufReader<ChildStderr>,
    sender: std::process::Command,
}

impl Receiver {
    fn start(bed: &Bed, source: &Qemu, target: &Qemu, downtime: Duration) -> Result<Self> {
        let mut receiver = bed
            .command(program("pagelift-receive")?)
            .arg("--qmp")
            .arg(target.qmp_path())
            .args(["--listen", "tcp://127.0.0.1:0", "--json"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = receiver.stderr.take().context("its stderr is piped")?;
        let mut words = BufReader::new(stderr);
        let mut line = String::new();
        words.read_line(&mut line)?;
        let address = line
            .split_whitespace()
            .find(|word| word.starts_with("tcp://"))
            .with_context(|| format!("pagelift-receive does not wait: {line}"))?;
        let mut sender = bed.command(program("pagelift-send")?);
        sender
            .arg("--qmp")
            .arg(source.qmp_path())
            .args(["--to", address, "--json", "--quiet"])
            .args(["--channels", &CHANNELS.to_string()])
            .args(["--downtime", &format!("{}ms", downtime.as_millis())])
            .stdout(Stdio::piped());
        Ok(Self {
            receiver,
            words,
            sender,
        })
    }

    fn send(mut self, source: &Qemu) -> Result<Moved> {
        let (began, start) = (SystemTime::now(), Instant::now());
        let mut sender = self.sender.spawn()?;
        let sent = account::finish(&mut sender, "pagelift-send");
        let process = start.elapsed();
        let received = account::finish(&mut self.receiver, "pagelift-receive");
        let mut words = String::new();
        self.words.read_to_string(&mut words)?;
        let cpu_s = sent.and_then(|sent_s| Ok(sent_s + received?));
        let cpu_s = cpu_s.with_context(|| format!("pagelift-receive said: {words}"))?;
        let mut text = String::new();
        if let Some(mut stdout) = sender.stdout.take() {
            stdout.read_to_string(&mut text)?;
        }
        let report: Value = serde_json::from_str(&text)?;
        let number = |key: &str| report[key].as_u64().unwrap_or_default();
        let (wire_bytes, rounds) = (number("wire_bytes"), number("rounds"));
        Ok(Moved {
            began,
            stopped: source.wait_event("STOP", PATIENCE)?,
            wire_bytes,
            rounds,
            cpu_s,
            process: Some(process),
            report: Some(report),
        })
    }
}
