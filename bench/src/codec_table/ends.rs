//! The two ends of a move, each a process of its own: the engine as `pagelift-send` and
//! `pagelift-receive` set it up, around a guest of this program.
//!
//! The memory is not compared on the way, which would lengthen every move by the same; whoever
//! started the two compares it afterwards.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pagelift_engine::dirty::ManualTracker;
use pagelift_engine::memory::ReadPages;
use pagelift_engine::pipeline::process_cpu;
use pagelift_engine::units::ByteCount;
use pagelift_engine::{
    CompressSetting, DedupSetting, DeltaCacheSize, Ended, GuestRam, Incoming, Outgoing, Report,
};
use pagelift_transports::{Endpoint, Security, TcpAddress};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::guest::{self, Local};
use crate::options::{End, Sending};
use crate::writer::Writer;

/// What the target says first, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// The port it listens on.
    pub(crate) port: u16,
}

/// What the source says at the end, one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// From the handshake to the guest running on the target.
    pub(crate) total_s: f64,
    /// Bytes of frames of pages, headers included.
    pub(crate) wire_bytes: u64,
    /// Pages by what carried them.
    pub(crate) pages: Pages,
    /// CPU time of the source's process from the handshake on, the guest's vCPU left out.
    pub(crate) source_cpu_s: f64,
    /// CPU time of the target's process.
    pub(crate) target_cpu_s: f64,
}

/// How many pages each way of carrying them took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Pages {
    /// Marked as zero, or as filled with one word.
    pub(crate) fill: u64,
    /// As they are.
    pub(crate) raw: u64,
    /// In blocks of LZ4.
    pub(crate) lz4: u64,
    /// In blocks of zstd, of any level.
    pub(crate) zstd: u64,
}

/// Runs one end.
pub(crate) fn run(end: &End) -> Result<()> {
    // Nobody else would end this process if the one that started it is killed.
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl(PR_SET_PDEATHSIG)")?;
    match end {
        End::Source {
            memory,
            host,
            port,
            compress,
            sending,
        } => source(memory, (*host, *port), *compress, sending),
        End::Target { memory, host } => target(memory, *host),
    }
}

fn source(
    path: &Path,
    (host, port): (Ipv4Addr, u16),
    compress: CompressSetting,
    sending: &Sending,
) -> Result<()> {
    let memory = Arc::new(guest::memory(path)?);
    let tracker = ManualTracker::new(memory.layout().pages());
    let guest = match sending.guest_writes {
        Some(rate) => Local::writing(Writer::start(path, tracker.marker(), rate)?),
        None => Local::default(),
    };
    let ram = GuestRam::new(memory, Box::new(tracker));
    let job = Outgoing::new(
        endpoint(host, port).connect_with(&Security::Insecure)?,
        ram,
        guest,
    )
    .channels(sending.channels())
    .compress(compress)
    .cpu_limit(sending.cpu_limit.unwrap_or_default())
    // Pages that are sent twice say more of codecs if they go whole.
    .delta_cache(DeltaCacheSize::Bytes(ByteCount(0)))
    .dedup(DedupSetting::Off);
    let cpu_before = process_cpu();
    let Ended { result, guest } = job.start()?.wait();
    let cpu = process_cpu().saturating_sub(cpu_before);
    say(&sent(&result?, cpu.saturating_sub(guest.cpu())))
}

fn sent(report: &Report, source_cpu: Duration) -> Sent {
    Sent {
        total_s: report.total.as_secs_f64(),
        wire_bytes: report.page_wire_bytes.0,
        pages: Pages {
            fill: report.pages.zero + report.pages.same_filled,
            raw: report.pages.raw,
            lz4: report.pages.lz4,
            zstd: report.pages.zstd,
        },
        source_cpu_s: source_cpu.as_secs_f64(),
        target_cpu_s: report.target_cpu.as_secs_f64(),
    }
}

fn target(path: &Path, host: Ipv4Addr) -> Result<()> {
    let memory = Arc::new(guest::memory(path)?);
    let listener = endpoint(host, 0).listen_with(&Security::Insecure)?;
    let Endpoint::Tcp(TcpAddress { port, .. }) = listener.address().parse()? else {
        bail!("{} is not TCP", listener.address());
    };
    say(&Listening { port })?;
    let job = Incoming::new(listener, memory, Local::default()).start()?;
    job.wait().result?;
    Ok(())
}

fn endpoint(host: Ipv4Addr, port: u16) -> Endpoint {
    Endpoint::Tcp(TcpAddress::new(host.to_string(), port))
}

fn say(what: &impl Serialize) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(what)?)?;
    Ok(stdout.flush()?)
}
