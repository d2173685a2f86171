//! `pagelift-send` and `pagelift-receive`: a QEMU guest moves, with pagelift carrying its RAM.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser};
use pagelift_control::qemu::direct::{DirectSource, DirectTarget, SourceError, SourceOptions};
use pagelift_control::qmp::Address;
use pagelift_engine::memory::{FileMemory, MemoryError, ReadPages, WritePages};
use pagelift_engine::migration::{DOUBT, Failure, GuestLocation, MigrationError, RunRight};
use pagelift_engine::pipeline::{
    CancelToken, KeptPages, ReceiveJob, Received, SendJob, SendOptions, memory_budget, process_cpu,
    receive, send,
};
use pagelift_engine::units::{ByteCount, PageCount, Rate};
use pagelift_engine::wire::MAX_CHANNELS;
use pagelift_transports::Endpoint;
use pagelift_transports::tcp::{TcpLink, TcpServer};
use serde_json::{Value, json};

use crate::advice::Side;
use crate::exit::{self, ExitCode};
use crate::options::{self, ConvergenceOptions, Effort, random_number, random_session};
use crate::own_memory::own_memory_bytes;
use crate::progress::Progress;
use crate::report::{self, Extra};
use crate::say;
use crate::stages;
use crate::steer::Board;
use crate::stop_at::{StopAt, Stopping};

/// Moves the guest of a running QEMU to another one.
///
/// The QEMU must have been started by `pagelift run`, and the target be waiting in
/// `pagelift-receive`. Until the hand-over the guest runs on here, whatever happens.
#[derive(Debug, Parser)]
#[command(name = "pagelift-send", version)]
pub struct SendCommand {
    /// QEMU's monitor: the path of a -qmp unix socket that nobody else uses
    #[arg(long, value_name = "PATH")]
    qmp: Address,
    /// The target: tcp://HOST:PORT
    #[arg(long, value_name = "URI")]
    to: Endpoint,
    /// Cap on the rate of everything sent
    #[arg(long, value_name = "RATE", value_parser = options::rate)]
    bandwidth: Option<Rate>,
    /// Limits of the migration
    #[command(flatten)]
    convergence: ConvergenceOptions,
    /// Give up, and leave the guest on the source, when a disk of it fails and QEMU stops it
    #[arg(long)]
    abort_on_error: bool,
    /// Compare the digests of all memory before the hand-over; lengthens the blackout by the
    /// time to read all memory
    #[arg(long)]
    verify: bool,
    /// Until the guest has moved, let QEMU use the host's page cache for disks that bypass it
    /// (cache=none); not if another host writes to such a disk meanwhile
    #[arg(long)]
    buffer_disks: bool,
    /// What to print
    #[command(flatten)]
    output: Output,
}

/// Waits for a guest and lets it go on in a QEMU that was started with `-incoming defer`.
#[derive(Debug, Parser)]
#[command(name = "pagelift-receive", version)]
pub struct ReceiveCommand {
    /// QEMU's monitor: the path of a -qmp unix socket that nobody else uses
    #[arg(long, value_name = "PATH")]
    qmp: Address,
    /// Where to wait for the source: tcp://HOST:PORT; port 0 picks one, which is printed
    #[arg(long, value_name = "URI")]
    listen: Endpoint,
    /// A file with pages that the guest may have: its memory as it was left here by its last
    /// visit, or an image; what is in it need not be sent. Can be given several times
    #[arg(long, value_name = "PATH")]
    have: Vec<PathBuf>,
    /// What to print
    #[command(flatten)]
    output: Output,
}

/// What to print.
#[derive(Args, Clone, Copy, Debug)]
struct Output {
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

impl SendCommand {
    /// Moves the guest. What goes wrong is reported.
    pub fn run(self) -> ExitCode {
        let output = self.output;
        let ended = self.migrate();
        ended.unwrap_or_else(|error| output.not_begun(&error))
    }

    /// # Errors
    /// When what the migration needs beside the guest could not be set up: nothing was begun.
    fn migrate(self) -> Result<ExitCode> {
        let cancel = exit::cancel_on_signal()?;
        let stop_at = StopAt::from_env()?;
        let controls = self.convergence.controls(self.bandwidth, cancel);
        let board = Board::new(controls.clone());
        let control = self.convergence.serve(&board)?;
        let Endpoint::Tcp { host, port } = &self.to;
        let mut link = match TcpLink::resolve(host, *port) {
            Ok(link) => link,
            Err(error) => {
                return Ok(self.output.no_link(
                    "cannot look up the target",
                    &self.to,
                    error,
                    Side::Source,
                ));
            }
        };
        let prepared = match DirectSource::prepare(&SourceOptions {
            qmp: self.qmp.clone(),
            abort_on_error: self.abort_on_error,
            buffer_disks: self.buffer_disks,
        }) {
            Ok(prepared) => prepared,
            Err(error) => return Ok(self.refused(&error)),
        };
        let memory = Arc::clone(&prepared.memory) as Arc<dyn ReadPages>;
        let channels = self.convergence.channels;
        let Effort {
            policy,
            compress,
            references,
            cpu,
            deltas,
            budget,
        } = self.convergence.effort(&*memory)?;
        board.watch_deltas(deltas.as_ref());
        let delta_cache = deltas.clone();
        let mut progress = Progress::new(self.output.quiet);
        progress.say(&format!(
            "guest: {} of RAM; {channels} channels, at most {budget} of memory for the migration",
            memory.layout().pages().bytes(),
        ));
        if let Some(rate) = self.bandwidth {
            link = link.capped(rate);
        }
        let (mut tracker, mut guest) = (prepared.tracker, prepared.guest);
        let mut extra = Extra {
            memory_budget_bytes: budget.0,
            ..Extra::default()
        };
        let cpu_before = process_cpu();
        let result = send(SendJob {
            link: &link,
            memory,
            dirty: &mut tracker,
            guest: &mut Stopping {
                guest: &mut guest,
                at: &stop_at,
            },
            right: RunRight::claim(),
            options: SendOptions {
                session: random_session(),
                channels,
                verify: self.verify,
                facts: prepared.facts,
                compress,
                references,
                cpu,
                deltas,
                policy,
            },
            controls: controls.clone(),
            progress: &mut |status| {
                board.show(status);
                progress.update(status);
                stop_at.at(status);
                extra.memory_peak_bytes = extra.memory_peak_bytes.max(own_memory_bytes());
            },
        });
        drop(control);
        progress.finish();
        extra.delta_cache = delta_cache.map(|deltas| deltas.stats());
        extra.vcpus = guest.throttled();
        extra.source_cpu = process_cpu().saturating_sub(cpu_before);
        Ok(match result {
            Ok(report) if self.output.json => {
                say::result(report::completed_json(&report, &extra));
                ExitCode::Completed
            }
            Ok(report) => {
                say::result(report::completed_text(&report, &extra));
                ExitCode::Completed
            }
            Err(failure) => {
                let freed_after = controls.cancel_token().freed_after();
                self.output.failed(&failure, Side::Source, freed_after)
            }
        })
    }

    /// The guest cannot leave; nothing was started.
    fn refused(&self, error: &SourceError) -> ExitCode {
        let failure = Failure {
            error: MigrationError::Guest(error.to_string()),
            guest: GuestLocation::Source,
        };
        self.output.failed(&failure, Side::Source, None)
    }
}

impl ReceiveCommand {
    /// Takes a guest. What goes wrong is reported.
    pub fn run(self) -> ExitCode {
        let output = self.output;
        let ended = self.receive();
        ended.unwrap_or_else(|error| output.not_begun(&error))
    }

    /// # Errors
    /// When what the migration needs beside the guest could not be set up: nothing was begun.
    fn receive(self) -> Result<ExitCode> {
        let cancel = exit::cancel_on_signal()?;
        let stop_at = StopAt::from_env()?;
        let kept = match KeptPages::open(&self.have, random_number()) {
            Ok(kept) => kept,
            Err(error) => return Ok(self.unusable(error)),
        };
        let Endpoint::Tcp { host, port } = &self.listen;
        let server = match TcpServer::bind(host, *port) {
            Ok(server) => server,
            Err(error) => {
                return Ok(self
                    .output
                    .no_link("cannot listen", &self.listen, error, Side::Target));
            }
        };
        let mut prepared = match DirectTarget::prepare(&self.qmp) {
            Ok(prepared) => prepared,
            Err(error) => {
                let failure = Failure {
                    error: MigrationError::Guest(error.to_string()),
                    guest: GuestLocation::Source,
                };
                return Ok(self.output.failed(&failure, Side::Target, None));
            }
        };
        let memory = prepared.memory;
        if let Err(error) = self.check_have(&memory) {
            return Ok(self.unusable(error));
        }
        let progress = Progress::new(self.output.quiet);
        progress.say(&format!(
            "waiting on tcp://{} for a guest of {} of RAM; at most {} of memory for the migration",
            server.local_addr()?,
            WritePages::layout(&*memory).pages().bytes(),
            ByteCount(
                memory_budget(WritePages::layout(&*memory), MAX_CHANNELS).0 + kept.footprint().0
            ),
        ));
        if kept.pages() > PageCount(0) {
            let what = kept.pages().bytes();
            progress.say(&format!("{what} of pages are here already"));
        }
        let (mut peak, mut source_lost) = (0, false);
        let result = receive(ReceiveJob {
            listener: &server,
            pages: Arc::clone(&memory) as Arc<dyn WritePages>,
            content: memory as Arc<dyn ReadPages>,
            guest: &mut Stopping {
                guest: &mut prepared.guest,
                at: &stop_at,
            },
            facts: prepared.facts,
            kept,
            cancel: CancelToken::clone(&cancel),
            progress: &mut |status| {
                peak = peak.max(own_memory_bytes());
                if status.source_lost && !std::mem::replace(&mut source_lost, true) {
                    progress.say(&format!(
                        "the source is lost during the hand-over; waiting up to {} s for it to \
                         ask again",
                        DOUBT.as_secs()
                    ));
                }
                source_lost = status.source_lost;
            },
        });
        prepared.guest.finish();
        Ok(match result {
            Ok(received) => {
                let object = received_json(&received, peak);
                if self.output.json {
                    say::result(object);
                } else {
                    say::result(format_args!(
                        "completed: the guest is here, {} received\n{}",
                        received.status.received,
                        stages::target_text(&received.status.stages)
                    ));
                }
                ExitCode::Completed
            }
            Err(failure) => self.output.failed(&failure, Side::Target, None),
        })
    }
}

impl ReceiveCommand {
    /// The guest's memory is cleared before it comes: it has nothing to give.
    fn check_have(&self, memory: &FileMemory) -> Result<(), MemoryError> {
        for path in &self.have {
            if std::fs::metadata(path).is_ok_and(|file| memory.is_in(&file)) {
                return Err(MemoryError::Io {
                    action: "use",
                    region: path.display().to_string(),
                    offset: 0,
                    source: std::io::Error::other(
                        "it is the memory of the QEMU that waits here; keep the old file under \
                         another name, let QEMU have a new one, and name the old one",
                    ),
                });
            }
        }
        Ok(())
    }

    /// A file cannot be used; nothing was started.
    fn unusable(&self, error: MemoryError) -> ExitCode {
        let failure = Failure {
            error: error.into(),
            guest: GuestLocation::Source,
        };
        self.output.failed(&failure, Side::Target, None)
    }
}

impl Output {
    /// Reports an address that cannot be used; nothing was started.
    fn no_link(
        self,
        what: &'static str,
        address: &Endpoint,
        error: std::io::Error,
        side: Side,
    ) -> ExitCode {
        let source = std::io::Error::new(error.kind(), format!("{address}: {error}"));
        let failure = Failure {
            error: MigrationError::Link { what, source },
            guest: GuestLocation::Source,
        };
        self.failed(&failure, side, None)
    }

    /// Reports that nothing was begun: the guest is where it was.
    fn not_begun(self, error: &anyhow::Error) -> ExitCode {
        let words = exit::words(error);
        if self.json {
            say::result(report::not_begun_json(&words));
        }
        say::note(format_args!("error: {words}\nthe guest is on the source"));
        ExitCode::Failed
    }

    /// Reports a migration that did not complete.
    fn failed(self, failure: &Failure, side: Side, freed_after: Option<Duration>) -> ExitCode {
        if self.json {
            say::result(report::failed_json(failure, side, freed_after));
        }
        say::note(report::failed_text(failure, side, freed_after));
        ExitCode::of(failure)
    }
}

/// The target's report.
fn received_json(received: &Received, memory_peak_bytes: u64) -> Value {
    json!({
        "outcome": "completed",
        "vm_location": GuestLocation::Target.name(),
        "wire_bytes": received.status.received.0,
        "stages": stages::target_json(&received.status.stages),
        "cpu_s": { "target": process_cpu().as_secs_f64() },
        "memory_bytes": { "peak": memory_peak_bytes },
        "verified": received.verified,
        "error": null,
    })
}
