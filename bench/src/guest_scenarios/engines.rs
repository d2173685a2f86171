//! The engines that are compared: how each is started, and its own account of a move.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use pagelift_bench::qemu::{configure, listen};
use pagelift_engine::converge::{Decision, Trace};
use pagelift_tests::{Bed, NetPair, PATIENCE, Qemu, Run, Side, program};
use serde_json::{Value, json};

use crate::methods::Engine;

/// Data connections of multifd and of pagelift.
const CHANNELS: u32 = 2;

/// How often a migration is looked at.
const POLL: Duration = Duration::from_millis(50);

/// What all settings have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest downtime allowed.
    pub(crate) downtime_ms: u64,
    /// Time after which a move is given up.
    pub(crate) limit: Duration,
    /// Cache of old contents for those settings that keep one.
    pub(crate) cache_bytes: u64,
    /// Whether pagelift without options has a cache of that size too.
    pub(crate) cache_is_told: bool,
}

/// Where a guest moves from and to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends<'a> {
    /// The place of all files and processes.
    pub(crate) bed: &'a Bed,
    /// The link.
    pub(crate) net: &'a NetPair,
    /// Has the guest.
    pub(crate) source: &'a Qemu,
    /// Waits for it.
    pub(crate) target: &'a Qemu,
}

/// What an engine has to say of a move.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// When the command that starts the move was given.
    pub(crate) began: (Instant, SystemTime),
    /// Why the guest is still where it was; `None` if it has moved.
    pub(crate) failure: Option<String>,
    /// Passes over memory, the last included, where it says.
    pub(crate) rounds: Option<u64>,
    /// The largest share of its time, in per cent, that the guest was kept from running.
    pub(crate) throttle_pct_max: f64,
    /// Its own report.
    pub(crate) report: Value,
}

/// A move that is set up on both sides.
#[derive(Debug)]
pub(crate) enum Ready {
    /// By QEMU, to this URI.
    Qemu(String),
    /// By pagelift, with the waiting receiver and the sender's command.
    Pagelift(Box<(Run, Command)>),
}

impl Engine {
    /// Prepares both sides, up to the command that starts the move. pagelift's trace goes to
    /// `trace`.
    pub(crate) fn prepare(self, ends: Ends<'_>, limits: Limits, trace: &Path) -> Result<Ready> {
        let address = ends.net.address(Side::Target);
        match self {
            Self::Pagelift(options) => pagelift(ends, address, options, limits, trace),
            Self::Qemu {
                capabilities,
                compression,
            } => {
                let parameters = json!({
                    // No limit but the link's; the default is 128 MiB/s.
                    "max-bandwidth": 0,
                    "downtime-limit": limits.downtime_ms,
                    "multifd-channels": CHANNELS,
                    "multifd-compression": compression,
                    // It takes nothing but powers of two.
                    "xbzrle-cache-size": limits.cache_bytes.next_power_of_two(),
                });
                for qemu in [ends.source, ends.target] {
                    configure(qemu, capabilities, &parameters)?;
                }
                Ok(Ready::Qemu(listen(ends.target, address)?))
            }
        }
    }
}

fn pagelift(
    ends: Ends<'_>,
    address: Ipv4Addr,
    options: &[&str],
    limits: Limits,
    trace: &Path,
) -> Result<Ready> {
    let command = |side, name: &str, qemu: &Qemu| -> Result<_> {
        let mut command = ends.net.command(ends.bed, side, program(name)?);
        command.arg("--qmp").arg(qemu.qmp_path()).arg("--json");
        // The network is the bench's own, and QEMU does not encrypt either.
        command.arg("--insecure");
        Ok(command)
    };
    let mut receive = command(Side::Target, "pagelift-receive", ends.target)?;
    receive.args(["--listen", &format!("tcp://{address}:0")]);
    let mut receiver = Run::start(ends.bed, "receive", receive)?;
    let uri = receiver.wait_stderr(|text| {
        let (_, rest) = text.split_once("waiting on ")?;
        Some(rest.split_once(' ')?.0.to_owned())
    })?;
    let mut send = command(Side::Source, "pagelift-send", ends.source)?;
    send.args(["--quiet", "--to", &uri])
        .args(["--channels", &CHANNELS.to_string()])
        .args(["--downtime", &format!("{}ms", limits.downtime_ms)])
        .args(["--timeout", &format!("{}s", limits.limit.as_secs())])
        .arg("--trace")
        .arg(trace)
        .args(options);
    if limits.cache_is_told || !options.is_empty() {
        send.args(["--delta-cache", &limits.cache_bytes.to_string()]);
    }
    Ok(Ready::Pagelift(Box::new((receiver, send))))
}

impl Ready {
    /// Moves the guest; returns when the engine has nothing more to do.
    pub(crate) fn go(self, ends: Ends<'_>, limits: Limits, trace: &Path) -> Result<Attempt> {
        let began = (Instant::now(), SystemTime::now());
        match self {
            Self::Qemu(uri) => {
                ends.source.execute("migrate", json!({ "uri": uri }))?;
                by_qemu(ends.source, began, limits.limit)
            }
            Self::Pagelift(programs) => {
                let (receiver, command) = *programs;
                let sender = Run::start(ends.bed, "send", command)?;
                by_pagelift(receiver, sender, began, limits.limit, trace)
            }
        }
    }
}

/// Waits for QEMU, and cancels its migration at the limit.
fn by_qemu(source: &Qemu, began: (Instant, SystemTime), limit: Duration) -> Result<Attempt> {
    let mut throttle_pct_max: f64 = 0.0;
    let mut last_words = Value::Null;
    let mut cancelled = false;
    loop {
        let status = source.execute("query-migrate", json!({}))?;
        let throttle = status["cpu-throttle-percentage"].as_f64();
        throttle_pct_max = throttle_pct_max.max(throttle.unwrap_or_default());
        if status["ram"].is_object() {
            last_words = status.clone();
        }
        let failure = match status["status"].as_str() {
            Some("completed") => None,
            Some("cancelled") if cancelled => {
                Some(format!("cancelled after {} s", limit.as_secs()))
            }
            Some("cancelled" | "failed") | None => bail!("QEMU's migration: {status}"),
            Some(_) => {
                if !cancelled && began.0.elapsed() >= limit {
                    source.execute("migrate_cancel", json!({}))?;
                    cancelled = true;
                }
                ensure!(began.0.elapsed() < limit + PATIENCE, "no end: {status}");
                sleep(POLL);
                continue;
            }
        };
        return Ok(Attempt {
            began,
            failure,
            rounds: last_words["ram"]["dirty-sync-count"].as_u64(),
            throttle_pct_max,
            report: last_words,
        });
    }
}

/// Waits for the sender, which gives up by itself at the limit.
fn by_pagelift(
    receiver: Run,
    mut sender: Run,
    began: (Instant, SystemTime),
    limit: Duration,
    trace: &Path,
) -> Result<Attempt> {
    while sender.ended()?.is_none() {
        ensure!(
            began.0.elapsed() < limit + PATIENCE,
            "pagelift-send does not end: {}",
            sender.stderr()
        );
        sleep(POLL);
    }
    let sent = sender.wait()?;
    let report = sent.json()?;
    let failure = match sent.code() {
        0 => {
            let received = receiver.wait()?;
            ensure!(received.code() == 0, "pagelift-receive: {received:?}");
            None
        }
        1 => {
            let message = report["error"]["message"].as_str();
            Some(message.context("a failure has a message")?.to_owned())
        }
        _ => bail!("pagelift-send: {sent:?}; pagelift-receive: {receiver:?}"),
    };
    Ok(Attempt {
        began,
        failure,
        rounds: report["rounds"].as_u64(),
        throttle_pct_max: throttle_pct_max(trace)?,
        report,
    })
}

/// The largest throttle that was applied or asked for.
fn throttle_pct_max(trace: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(trace).context("pagelift-send wrote no trace")?;
    let most = Trace::parse(&text)?
        .records
        .iter()
        .map(|record| match record.decision {
            Decision::Throttle(share) => share.as_fraction(),
            _ => record.seen.throttled.as_fraction(),
        })
        .fold(0.0, f64::max);
    Ok(most * 100.0)
}
