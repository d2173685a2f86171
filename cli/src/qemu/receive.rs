//! `pagelift-receive`: a guest comes to a QEMU that waits for it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;
use pagelift_control::driver::Side;
use pagelift_control::driver::qemu::direct::DirectQemu;
use pagelift_control::failpoints;
use pagelift_control::job::{IncomingError, json as objects, prepare_incoming};
use pagelift_control::qmp::Address;
use pagelift_control::remote::Arrival;
use pagelift_engine::migration::{GuestLocation, IN_DOUBT};
use pagelift_engine::pipeline::{Controls, Received, Settings, process_cpu};
use pagelift_engine::units::{ByteCount, PageCount};
use pagelift_transports::{Endpoint, Token};
use serde_json::{Value, json};

use crate::exit::{self, ExitCode};
use crate::launch;
use crate::logging::LogOptions;
use crate::options::{PersistentOptions, SecurityOptions};
use crate::own_process;
use crate::print;
use crate::progress::Progress;
use crate::report::{Extra, Output};
use crate::watch::watch;

/// Waits for a guest and lets it go on in a QEMU that was started with `-incoming defer`.
#[derive(Debug, Parser)]
#[command(name = "pagelift-receive", version)]
pub struct ReceiveCommand {
    /// QEMU's monitor: the path of a -qmp unix socket that nobody else uses
    #[arg(long, value_name = "PATH", required_unless_present = "start")]
    qmp: Option<Address>,
    /// Start the QEMU that the source asks for, which is known by who has started this program:
    /// `pagelift-send --to ssh://...` does. Takes --listen stdio:
    #[arg(long, conflicts_with_all = ["qmp", "tls_dir", "token_file", "new_token"])]
    start: bool,
    /// Where to wait for the source: tcp://HOST:PORT, with ?bind=WHERE and &dscp=CLASS behind it if
    /// wanted; port 0 picks one, which is printed. Or rdma://HOST:PORT, unix:PATH, vsock:any:PORT, fd:N (a connected
    /// socket), exec:COMMAND, stdio: (the report goes to standard error then). If others than this
    /// host can reach it, and nothing else is said, a token is made for this move, and the command for
    /// the source is printed with it
    #[arg(long, value_name = "URI")]
    listen: Endpoint,
    /// With rdma://: pin all memory of the guest before its first page comes
    #[arg(long)]
    rdma_pin_all: bool,
    /// How to know the source
    #[command(flatten)]
    security: SecurityOptions,
    /// Make a token for this move also where only this host can reach the address
    #[arg(long, conflicts_with_all = ["tls_dir", "token_file", "insecure"])]
    new_token: bool,
    /// Persistent memory
    #[command(flatten)]
    persistent: PersistentOptions,
    /// Hand the memory itself over, without copying any: both QEMUs are on this host, and the target's
    /// was started by `pagelift run --memory-of`; must be said on both sides
    #[arg(long)]
    same_memory: bool,
    /// A file with pages that the guest may have: its memory as it was left here by its last
    /// visit, or an image; what is in it need not be sent. Can be given several times
    #[arg(long, alias = "have", value_name = "PATH")]
    base: Vec<PathBuf>,
    /// What to print
    #[command(flatten)]
    output: Output,
    /// What to log
    #[command(flatten)]
    log: LogOptions,
}

impl ReceiveCommand {
    /// Takes a guest. What goes wrong is reported.
    pub fn run(self) -> ExitCode {
        self.log.start();
        let output = self.output.clone();
        let ended = self.with_qemu();
        ended.unwrap_or_else(|error| output.not_begun(&error))
    }

    /// With the QEMU that was named, or one that is started.
    fn with_qemu(self) -> Result<ExitCode> {
        let Some(qmp) = self.qmp.clone() else {
            if self.listen != Endpoint::Stdio {
                bail!("--start takes --listen stdio:");
            }
            // QEMU does not get the limits of this process.
            let arrival = Arrival::begin(&launch::pagelift()?)?;
            own_process::prepare();
            let (qmp, pid) = (arrival.qmp(), arrival.pid());
            let ended = self.receive(&qmp)?;
            if let ExitCode::Completed | ExitCode::Unknown = ended {
                print::note(format_args!(
                    "the guest's QEMU is process {pid}, with a monitor at {qmp}"
                ));
                arrival.keep();
            }
            return Ok(ended);
        };
        own_process::prepare();
        self.receive(&qmp)
    }

    /// # Errors
    /// When what the migration needs beside the guest could not be set up: nothing was begun.
    fn receive(self, qmp: &Address) -> Result<ExitCode> {
        let cancel = exit::cancel_on_signal()?;
        failpoints::check_environment()?;
        let driver = DirectQemu {
            persistent_memory: self.persistent.chosen(),
            same_memory: self.same_memory,
            ..DirectQemu::new(qmp.clone())
        };
        let controls = Controls::new(Settings::default(), cancel);
        let is_wanted = self.new_token || !self.listen.is_local();
        let (security, made) = self.security.chosen_or_new_token(is_wanted)?;
        let listen = super::pinned(&self.listen, self.rdma_pin_all)?;
        let job = match prepare_incoming(&driver, &listen, &security, &self.base, controls) {
            Ok(job) => job,
            Err(IncomingError::Refused(error)) => {
                let guest = super::place_of(qmp);
                return Ok(self.output.not_started(error, guest, Side::Target));
            }
            Err(error) => return Err(error.into()),
        };
        let (incoming, size) = (job.incoming, job.size);
        let mut progress = Progress::new(self.output.quiet);
        let ram = match self.same_memory {
            true => "whose RAM is handed over".to_owned(),
            false => format!("of {size} of RAM"),
        };
        progress.note(&format!(
            "waiting on {} for a guest {ram}; at most {} of memory for the migration",
            incoming.address(),
            incoming.memory_budget(),
        ));
        if let Some(token) = &made {
            invite(token, &incoming.address());
        }
        if job.base_pages > PageCount(0) {
            let here = job.base_pages.bytes();
            progress.note(&format!("{here} of pages are here already"));
        }
        let (mut source_lost, mut began) = (false, None);
        let job = incoming.start()?;
        let peak = watch(&job, |status| {
            if status.received > ByteCount(0) {
                began.get_or_insert_with(Instant::now);
            }
            if status.source_lost && !std::mem::replace(&mut source_lost, true) {
                progress.note(&format!(
                    "the source is lost during the hand-over; waiting up to {} s for it to ask \
                     again",
                    IN_DOUBT.as_secs()
                ));
            }
            source_lost = status.source_lost;
            progress.update_target(status);
        });
        progress.finish();
        Ok(match job.wait().result {
            Ok(received) => {
                let object = received_json(&received, peak);
                let total = began.map_or(Duration::ZERO, |began| began.elapsed());
                self.output.received(&received.status, total, &object)
            }
            Err(failure) => self
                .output
                .failed(&failure, Side::Target, &Extra::default()),
        })
    }
}

/// Says how the source's side is started. Shown also with --quiet: nobody could send otherwise.
fn invite(token: &Token, address: &str) {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    let address = ["tcp://0.0.0.0:", "tcp://[::]:"]
        .iter()
        .find_map(|any| address.strip_prefix(any))
        .map(|port| format!("tcp://{host}:{port}"))
        .or_else(|| Some(format!("vsock:CID:{}", address.strip_prefix("vsock:any:")?)))
        .unwrap_or_else(|| address.to_owned());
    print::note(format_args!(
        "on the source, with a token made for this move:\n  \
         PAGELIFT_TOKEN={} pagelift-send --qmp PATH --to {address}",
        token.reveal()
    ));
}

/// The target's report.
fn received_json(received: &Received, memory_peak_bytes: u64) -> Value {
    json!({
        "outcome": "completed",
        "vm_location": GuestLocation::Target.name(),
        "wire_bytes": received.status.received.0,
        "stages": objects::target_stages(&received.status.stages),
        "cpu_s": { "target": process_cpu().as_secs_f64() },
        "memory_bytes": { "peak": memory_peak_bytes },
        "verified": received.verified,
        "error": null,
    })
}
