//! Options that several programs share, and what a source makes of them.

mod persistent;
mod security;

pub use pagelift_control::job::values::{
    Deadline, MaxThrottle, ScanThreads, channels, cpu_limit, deadline, downtime, downtime_limit,
    duration, max_throttle, rate, scan_threads,
};

pub use persistent::PersistentOptions;
pub use security::SecurityOptions;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pagelift_control::job::JobStatus;
use pagelift_control::socket::{ControlSocket, ControlSocketError};
use pagelift_engine::codec::CompressSetting;
use pagelift_engine::codec::dedup::DedupSetting;
use pagelift_engine::codec::select::CpuLimit;
use pagelift_engine::converge::{AtDeadline, Downtime, Limits, PolicyKind};
use pagelift_engine::memory::PageBitmap;
use pagelift_engine::migration::DowntimeLimit;
use pagelift_engine::pipeline::{CancelToken, Controls, Settings};
use pagelift_engine::units::Rate;
use pagelift_engine::{DeltaCacheSize, Outgoing, SourceGuest};

use crate::recording::Recording;
use crate::trace::Recorder;

/// How long a migration may take and how hard it may try.
#[derive(Args, Clone, Debug)]
pub struct ConvergenceOptions {
    /// Longest downtime allowed; FROM..TO lets it grow, step by step, while rounds get nowhere
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = downtime)]
    pub downtime: Downtime,
    /// How long the guest may stand still before it is handed over; then it goes on here. auto: ten
    /// times --downtime, at least 5s, and 2s for each GiB with --verify; for one that is forced, so
    /// long without progress
    #[arg(long, value_name = "TIME", default_value = "auto", value_parser = downtime_limit)]
    pub downtime_limit: DowntimeLimit,
    /// Longest time from the beginning to the guest's stop, or none
    #[arg(long, visible_alias = "timeout", value_name = "TIME", default_value = "10m",
          value_parser = deadline)]
    pub deadline: Deadline,
    /// What to do when the deadline has come
    #[arg(long, value_enum, default_value_t = AtDeadlineName::Cancel)]
    pub at_deadline: AtDeadlineName,
    /// What to do about a guest that writes faster than the link carries
    #[arg(long, value_enum, default_value_t = PolicyName::Predictive)]
    pub policy: PolicyName,
    /// Largest share of its time, in per cent, that the guest may be kept from running; auto: 95,
    /// for one that sleeps up to 98 as long as it does a twentieth of its work, and 99 with classic
    #[arg(long, value_name = "PERCENT", default_value = "auto", value_parser = max_throttle)]
    pub max_throttle: MaxThrottle,
    /// Listen on a socket made at this path, for `pagelift ctl`
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Record what the policy sees and decides, for `pagelift replay`
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// How to compress pages: auto, none, lz4, zstd, zstd:LEVEL, xbzrle
    #[arg(long, value_name = "HOW", default_value_t = CompressSetting::Auto)]
    pub compress: CompressSetting,
    /// Most processor time for sending, of one processor: 50%, or 150% for one and a half
    #[arg(long, value_name = "PERCENT", value_parser = cpu_limit)]
    pub cpu_limit: Option<CpuLimit>,
    /// Memory for the contents that deltas are made against (--compress auto and xbzrle): a size,
    /// or auto: room for all of the guest's pages, but at most an eighth of the memory available
    #[arg(long, value_name = "SIZE", default_value = "auto")]
    pub delta_cache: DeltaCacheSize,
    /// Send pages that the target has already (pagelift-receive --base) as references: auto
    /// (where it pays), on, off
    #[arg(long, alias = "references", value_name = "WHEN", default_value_t = DedupSetting::Auto)]
    pub dedup: DedupSetting,
    /// Data connections: a number, or auto
    #[arg(long, value_name = "N", default_value = "auto", value_parser = channels)]
    pub channels: u16,
    /// Threads that scan page tables for what the guest writes: a number, or auto: as many as there
    /// are processors, where the memory is large enough
    #[arg(long, value_name = "N", default_value = "auto", value_parser = scan_threads)]
    pub scan_threads: ScanThreads,
}

/// The policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicyName {
    /// Throttle only when it must, as little as will do, and release again
    Predictive,
    /// Auto-converge as QEMU has it
    Classic,
    /// Never throttle
    None,
}

impl From<PolicyName> for PolicyKind {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::Predictive => Self::Predictive,
            PolicyName::Classic => Self::Classic,
            PolicyName::None => Self::None,
        }
    }
}

/// What to do at the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AtDeadlineName {
    /// Give up: the guest stays where it is
    Cancel,
    /// Let go of the guest, and move it as soon as it fits the downtime by itself
    StopTrying,
    /// Stop the guest and send the rest, whatever the downtime
    Force,
}

impl From<AtDeadlineName> for AtDeadline {
    fn from(name: AtDeadlineName) -> Self {
        match name {
            AtDeadlineName::Cancel => Self::Cancel,
            AtDeadlineName::StopTrying => Self::StopTrying,
            AtDeadlineName::Force => Self::Force,
        }
    }
}

impl ConvergenceOptions {
    /// The limits that a migration begins with.
    pub fn limits(&self) -> Limits {
        Limits {
            policy: self.policy.into(),
            downtime: self.downtime,
            deadline: self.deadline.0,
            at_deadline: self.at_deadline.into(),
            throttle_most: self.max_throttle.0,
        }
    }

    /// The control socket of `job`, if one is wanted.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn serve(&self, job: &JobStatus) -> Result<Option<ControlSocket>, ControlSocketError> {
        let start = |path: &PathBuf| ControlSocket::start(path, job.clone());
        self.control.as_ref().map(start).transpose()
    }

    /// A handle on a migration that begins so, capped at `bandwidth`.
    pub fn controls(&self, bandwidth: Option<Rate>, cancel: CancelToken) -> Controls {
        let settings = Settings {
            limits: self.limits(),
            bandwidth,
        };
        Controls::new(settings, cancel)
    }

    /// Sets up a migration as these options say. What its policy sees goes into `recording`, and into
    /// the trace.
    ///
    /// # Errors
    /// When the trace cannot be written, or the memory not be looked at.
    pub fn set_up<G: SourceGuest + 'static>(
        &self,
        outgoing: Outgoing<G>,
        recording: Option<&Recording>,
    ) -> anyhow::Result<Outgoing<G>> {
        let outgoing = match self.scan_threads.0 {
            Some(threads) => outgoing.scan_threads(threads),
            None => outgoing,
        };
        let outgoing = outgoing
            .channels(self.channels)
            .compress(self.compress)
            .cpu_limit(self.cpu_limit.unwrap_or_default())
            .delta_cache(self.delta_cache)
            .dedup(self.dedup)
            .downtime_limit(self.downtime_limit);
        if self.trace.is_none() && recording.is_none() {
            return Ok(outgoing);
        }
        let memory = outgoing.memory();
        let mut first_round = PageBitmap::new(memory.layout().pages());
        memory.populated(&mut first_round)?;
        let mut recorder = Recorder::new(first_round.count());
        if let Some(path) = &self.trace {
            recorder.write_to(path)?;
        }
        if let Some(recording) = recording {
            recorder.keep_in(recording.clone());
        }
        Ok(outgoing.wrap_policy(|policy, limits| Box::new(recorder.wrap(policy, limits))))
    }
}
