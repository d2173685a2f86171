//! `pagelift-send`: the guest of a running QEMU leaves.

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use pagelift_control::driver::LeavingGuest;
use pagelift_control::driver::Side;
use pagelift_control::driver::qemu::direct::DirectQemu;
use pagelift_control::failpoints;
use pagelift_control::job::{JobStatus, prepare_outgoing, prepare_outgoing_over};
use pagelift_control::qmp::Address;
use pagelift_control::remote::{SshLink, SshTarget};
use pagelift_control::throttle::ThrottleBy;
use pagelift_engine::pipeline::process_cpu;
use pagelift_engine::transport::RateCapped;
use pagelift_engine::units::Rate;
use pagelift_engine::{CancelToken, Ended};
use pagelift_transports::Endpoint;

use crate::exit::{self, ExitCode};
use crate::html::{Move, PageOptions};
use crate::logging::LogOptions;
use crate::options::{self, ConvergenceOptions, PersistentOptions, SecurityOptions};
use crate::own_process;
use crate::print;
use crate::progress::Progress;
use crate::report::{Extra, Output};
use crate::watch::watch;

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
    /// The target: tcp://HOST:PORT, with ?bind=WHERE (an interface, or an address of this host) and
    /// &dscp=CLASS behind it if wanted; rdma://HOST:PORT, unix:PATH, vsock:CID:PORT, fd:N (a connected socket),
    /// exec:COMMAND (a program that carries the bytes), stdio:. Or ssh://[USER@]HOST[:PORT], which
    /// starts a QEMU and pagelift-receive there, with the same command line as here, and ends both if
    /// the guest does not get there; behind it ?receive=PROGRAM, ?qemu=PROGRAM, ?dir=FOLDER to start
    /// in, ?qmp=PATH of a QEMU that waits there already
    #[arg(long, value_name = "URI")]
    to: Destination,
    /// With rdma://: have the target pin all memory of the guest before its first page goes
    #[arg(long)]
    rdma_pin_all: bool,
    /// The command for ssh://, with options of its own
    #[arg(long, value_name = "COMMAND", default_value = "ssh")]
    ssh: String,
    /// How to know the target
    #[command(flatten)]
    security: SecurityOptions,
    /// Name that the target's certificate is for, if it is not the host of --to
    #[arg(long, value_name = "NAME", requires = "tls_dir")]
    tls_hostname: Option<String>,
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
    #[arg(long, value_enum, value_name = "WHO", default_value_t = ThrottleByName::Agent)]
    throttle_by: ThrottleByName,
    /// Compare the digests of all memory before the hand-over; lengthens the downtime by the
    /// time to read all memory
    #[arg(long)]
    verify: bool,
    /// Until the guest has moved, let QEMU use the host's page cache for disks that bypass it
    /// (cache=none); not if another host writes to such a disk meanwhile
    #[arg(long)]
    buffer_disks: bool,
    /// Persistent memory
    #[command(flatten)]
    persistent: PersistentOptions,
    /// Hand the memory itself over, without copying any: both QEMUs are on this host, and the target's
    /// was started by `pagelift run --memory-of`; must be said on both sides
    #[arg(long, conflicts_with = "verify")]
    same_memory: bool,
    /// Move the guest even to a target that shows it another machine: CPU model and flags, topology,
    /// devices and their options. It may crash at any time after its move, or its devices may not
    /// load once all memory was sent
    #[arg(long)]
    allow_guest_abi_change: bool,
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

/// Where a guest goes.
#[derive(Clone, Debug)]
enum Destination {
    /// To a receiver that waits there.
    Endpoint(Endpoint),
    /// To one that is started there.
    Ssh(SshTarget),
}

impl FromStr for Destination {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.starts_with("ssh:") {
            true => Self::Ssh(text.parse()?),
            false => Self::Endpoint(text.parse()?),
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(to) => to.fmt(f),
            Self::Ssh(to) => to.fmt(f),
        }
    }
}

/// What throttles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ThrottleByName {
    /// The agent in QEMU: each vCPU, in milliseconds, and no longer than pagelift answers
    Agent,
    /// Quotas of the cgroups that the vCPUs are in, or that QEMU is alone in; takes the right
    /// to write to these cgroups, and a guard process that puts them back should pagelift be killed
    Cgroup,
}

impl From<ThrottleByName> for ThrottleBy {
    fn from(name: ThrottleByName) -> Self {
        match name {
            ThrottleByName::Agent => Self::Agent,
            ThrottleByName::Cgroup => Self::Cgroup,
        }
    }
}

impl SendCommand {
    /// Moves the guest. What goes wrong is reported.
    pub fn run(self) -> ExitCode {
        self.log.start();
        own_process::prepare();
        let output = self.output.clone();
        let ended = self.migrate();
        ended.unwrap_or_else(|error| output.not_begun(&error))
    }

    /// Starts a receiver at `to`. What it prints is shown with the host's name.
    ///
    /// # Errors
    /// When ssh does not get there, or something is missing there.
    fn start_receiver(&self, to: &SshTarget, cancel: &CancelToken) -> Result<Box<dyn RateCapped>> {
        let ssh: Vec<_> = self.ssh.split_whitespace().map(Into::into).collect();
        let (host, is_quiet) = (to.host.clone(), self.output.quiet);
        let said = move |line: &str| {
            if !is_quiet {
                print::note(format_args!("{host}: {line}"));
            }
        };
        let options = self.persistent.words();
        let started = SshLink::start(to, &ssh, &self.qmp, &options, cancel, said)?;
        Ok(started.link)
    }

    /// # Errors
    /// When what the migration needs beside the guest could not be set up: nothing was begun.
    fn migrate(self) -> Result<ExitCode> {
        let cancel = exit::cancel_on_signal()?;
        failpoints::check_environment()?;
        let recording = self.page.begin()?;
        let security = self.security.chosen(self.tls_hostname.as_deref())?;
        let controls = self.convergence.controls(self.bandwidth, cancel);
        let shown = JobStatus::new(controls.clone());
        let control = self.convergence.serve(&shown)?;
        let driver = DirectQemu {
            abort_on_error: self.abort_on_error,
            allow_guest_abi_change: self.allow_guest_abi_change,
            buffer_disks: self.buffer_disks,
            persistent_memory: self.persistent.chosen(),
            same_memory: self.same_memory,
            throttle_by: self.throttle_by.into(),
            ..DirectQemu::new(self.qmp.clone())
        };
        let prepared = match &self.to {
            Destination::Endpoint(to) => {
                let to = super::pinned(to, self.rdma_pin_all)?;
                prepare_outgoing(&driver, &to, &security, &shown)
            }
            Destination::Ssh(_) if self.rdma_pin_all => {
                bail!("--rdma-pin-all takes an address rdma://HOST:PORT");
            }
            Destination::Ssh(to) => {
                let link = self.start_receiver(to, controls.cancel_token())?;
                prepare_outgoing_over(&driver, link, &shown)
            }
        };
        let mut job = match prepared {
            Ok(job) => job,
            Err(error) => {
                let guest = super::place_of(&self.qmp);
                return Ok(self.output.not_started(error, guest, Side::Source));
            }
        };
        let size = job.outgoing.memory().layout().pages().bytes();
        let outgoing = job.outgoing.verify(self.verify);
        job.outgoing = self.convergence.set_up(outgoing, recording.as_ref())?;
        let budget = job.outgoing.memory_budget();
        let mut progress = Progress::new(self.output.quiet);
        let ram = match self.same_memory {
            true => "its RAM is handed over".to_owned(),
            false => format!("{size} of RAM"),
        };
        progress.note(&format!(
            "guest: {ram}; {} channels, at most {budget} of memory for the migration",
            self.convergence.channels,
        ));
        progress.note(&format!("throttle, if needed: {}", job.throttled_by));
        progress.note(&format!(
            "downtime limit: the guest goes on here if it is not handed over within {:.1} s",
            job.outgoing.longest_standstill().as_secs_f64(),
        ));
        let (began, cpu_before) = (Instant::now(), process_cpu());
        let recorded = recording.clone();
        let job = job.start(move |status| {
            recorded.iter().for_each(|recording| recording.saw(status));
        })?;
        let mut extra = Extra {
            session: job.id(),
            memory_budget_bytes: budget.0,
            throttle_by: Some(self.throttle_by.into()),
            ..Extra::default()
        };
        extra.memory_peak_bytes = watch(&job, |status| {
            progress.update(status);
            extra.status = Some(*status);
        });
        drop(control);
        progress.finish();
        extra.delta_cache = job.deltas().map(|deltas| deltas.stats());
        let Ended { result, guest } = job.wait();
        extra.elapsed = began.elapsed();
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
