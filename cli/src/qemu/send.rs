//! `pagelift-send`: the guest of a running QEMU leaves.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use pagelift_control::driver::qemu::direct::{DirectSource, SourceOptions, ThrottleBy};
use pagelift_control::failpoints;
use pagelift_control::job::JobStatus;
use pagelift_control::qmp::Address;
use pagelift_engine::memory::ReadPages;
use pagelift_engine::migration::{MigrationError, Ownership};
use pagelift_engine::pipeline::{SendJob, SendOptions, process_cpu, send};
use pagelift_engine::sys::random_number;
use pagelift_engine::units::Rate;
use pagelift_engine::wire::SessionId;
use pagelift_transports::Endpoint;

use crate::advice::Side;
use crate::exit::{self, ExitCode};
use crate::html::{Move, PageOptions};
use crate::logging::LogOptions;
use crate::options::{self, ConvergenceOptions, Effort};
use crate::own_memory::own_memory_bytes;
use crate::progress::Progress;
use crate::report::{Extra, Output};

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
    /// Who throttles a guest that writes too fast
    #[arg(long, value_enum, value_name = "WHO", default_value_t = Throttler::Agent)]
    throttle_by: Throttler,
    /// Compare the digests of all memory before the hand-over; lengthens the downtime by the
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
    /// What to log
    #[command(flatten)]
    log: LogOptions,
    /// The page about the move
    #[command(flatten)]
    page: PageOptions,
}

/// Who throttles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Throttler {
    /// The agent in QEMU: each vCPU, in milliseconds, and no longer than pagelift answers
    Agent,
    /// Quotas of the cgroups that the vCPUs are in, or that QEMU is alone in; takes root, and a
    /// guard process that puts them back should pagelift be killed
    Cgroup,
}

impl From<Throttler> for ThrottleBy {
    fn from(throttler: Throttler) -> Self {
        match throttler {
            Throttler::Agent => Self::Agent,
            Throttler::Cgroup => Self::Cgroup,
        }
    }
}

impl SendCommand {
    /// Moves the guest. What goes wrong is reported.
    pub fn run(self) -> ExitCode {
        self.log.start();
        let output = self.output.clone();
        let ended = self.migrate();
        ended.unwrap_or_else(|error| output.not_begun(&error))
    }

    /// # Errors
    /// When what the migration needs beside the guest could not be set up: nothing was begun.
    fn migrate(self) -> Result<ExitCode> {
        let cancel = exit::cancel_on_signal()?;
        failpoints::check_environment()?;
        let session = SessionId(random_number()?);
        let recording = self.page.begin()?;
        let controls = self.convergence.controls(self.bandwidth, cancel);
        let job = JobStatus::new(controls.clone());
        let control = self.convergence.serve(&job)?;
        let link = match self.to.connect() {
            Ok(link) => link,
            Err(source) => {
                let what = "cannot look up the target";
                return Ok(self
                    .output
                    .not_started(MigrationError::Link { what, source }, Side::Source));
            }
        };
        let prepared = match DirectSource::prepare(&SourceOptions {
            qmp: self.qmp.clone(),
            abort_on_error: self.abort_on_error,
            buffer_disks: self.buffer_disks,
            throttle_by: self.throttle_by.into(),
        }) {
            Ok(prepared) => prepared,
            Err(error) => {
                let error = MigrationError::Guest(error.to_string());
                return Ok(self.output.not_started(error, Side::Source));
            }
        };
        let (mut tracker, mut guest) = (prepared.tracker, prepared.guest);
        let memory = Arc::clone(&prepared.memory) as Arc<dyn ReadPages>;
        let channels = self.convergence.channels;
        let Effort {
            policy,
            compress,
            references,
            cpu,
            deltas,
            budget,
        } = self.convergence.effort(&*memory, recording.as_ref())?;
        job.set_deltas(deltas.as_ref());
        let delta_cache = deltas.clone();
        let mut progress = Progress::new(self.output.quiet);
        progress.say(&format!(
            "guest: {} of RAM; {channels} channels, at most {budget} of memory for the migration",
            memory.layout().pages().bytes(),
        ));
        progress.say(&format!("throttle, if needed: {}", guest.throttled_by()));
        let mut extra = Extra {
            session: Some(session),
            memory_budget_bytes: budget.0,
            throttle_by: Some(self.throttle_by.into()),
            ..Extra::default()
        };
        let (began, cpu_before) = (Instant::now(), process_cpu());
        let result = send(SendJob {
            link: &*link,
            memory,
            dirty: &mut tracker,
            guest: &mut guest,
            ownership: Ownership::claim(),
            options: SendOptions {
                session,
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
                job.update(status);
                progress.update(status);
                failpoints::progress(status);
                extra.status = Some(*status);
                recording.iter().for_each(|recording| recording.saw(status));
                extra.memory_peak_bytes = extra.memory_peak_bytes.max(own_memory_bytes());
            },
        });
        drop(control);
        progress.finish();
        extra.elapsed = began.elapsed();
        extra.delta_cache = delta_cache.map(|deltas| deltas.stats());
        extra.vcpus = guest.throttled();
        extra.source_cpu = process_cpu().saturating_sub(cpu_before);
        extra.freed_after = controls.cancel_token().freed_after();
        if let Some(recording) = recording {
            self.page.write(&Move {
                title: &format!("pagelift-send to {}", self.to),
                outcome: result.as_ref(),
                extra: &extra,
                recorded: &recording.recorded(),
            });
        }
        Ok(match result {
            Ok(report) => self.output.completed(&report, &extra, |_| {}),
            Err(failure) => self.output.failed(&failure, Side::Source, &extra),
        })
    }
}
