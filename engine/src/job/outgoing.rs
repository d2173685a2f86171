//! A guest that is to leave.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::budget;
use super::running::Job;
use super::{DeltaCacheSize, StartError, default_channels, random};
use crate::codec::CompressSetting;
use crate::codec::dedup::DedupSetting;
use crate::codec::select::CpuLimit;
use crate::converge::{AtDeadline, Downtime, Limited, Limits, Policy, PolicyKind};
use crate::dirty::DirtyError;
use crate::guest::SourceGuest;
use crate::memory::{GuestMemory, PersistentFile};
use crate::migration::{DowntimeLimit, Ownership, Report, SourceStatus};
use crate::pipeline::{Controls, Deltas, SendJob, SendOptions, send};
use crate::ram::GuestRam;
use crate::transport::RateCapped;
use crate::units::{ByteCount, Rate};
use crate::wire::{GuestProperty, SessionId};

/// Wraps the policy of a migration.
type WrapPolicy = Box<dyn FnOnce(Box<dyn Policy>, Limits) -> Box<dyn Policy> + Send>;

/// Told where a migration is.
type OnStatus = Box<dyn FnMut(&SourceStatus) + Send>;

/// A guest that is to leave: set it up, then [`start`](Self::start).
///
/// | knob | default | memory |
/// |---|---|---|
/// | [`downtime`](Self::downtime) | 50 ms | |
/// | [`downtime_limit`](Self::downtime_limit) | ten times the downtime, at least 5 s | |
/// | [`deadline`](Self::deadline) | none | |
/// | [`at_deadline`](Self::at_deadline) | cancel | |
/// | [`policy`](Self::policy) | predictive | |
/// | [`bandwidth`](Self::bandwidth) | as fast as the link carries | |
/// | [`channels`](Self::channels) | one a processor, at most 8 | 3 MiB a channel |
/// | [`compress`](Self::compress) | auto | up to 2 MiB a channel |
/// | [`scan_threads`](Self::scan_threads) | one a processor, at most 16, one per GiB populated | 24 KiB a thread |
/// | [`cpu_limit`](Self::cpu_limit) | none | |
/// | [`delta_cache`](Self::delta_cache) | auto | what it is given |
/// | [`dedup`](Self::dedup) | auto | some 20 bytes a page |
/// | [`verify`](Self::verify) | no | |
pub struct Outgoing<G> {
    link: Box<dyn RateCapped>,
    ram: GuestRam,
    guest: G,
    controls: Controls,
    channels: u16,
    compress: CompressSetting,
    cpu: CpuLimit,
    scan_threads: Option<NonZeroUsize>,
    delta_cache: DeltaCacheSize,
    dedup: DedupSetting,
    verify: bool,
    downtime_limit: DowntimeLimit,
    properties: Vec<GuestProperty>,
    persistent: Vec<PersistentFile>,
    wrap_policy: Option<WrapPolicy>,
    on_status: Option<OnStatus>,
}

impl<G> std::fmt::Debug for Outgoing<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing")
            .field("ram", &self.ram)
            .field("controls", &self.controls)
            .finish_non_exhaustive()
    }
}

impl<G: SourceGuest + 'static> Outgoing<G> {
    /// The guest `guest`, whose memory is `ram` and which runs here, is to leave by `link`.
    pub fn new(link: Box<dyn RateCapped>, ram: GuestRam, guest: G) -> Self {
        Self {
            link,
            ram,
            guest,
            controls: Controls::default(),
            channels: default_channels(),
            compress: CompressSetting::Auto,
            cpu: CpuLimit::default(),
            scan_threads: None,
            delta_cache: DeltaCacheSize::Auto,
            dedup: DedupSetting::Auto,
            verify: false,
            downtime_limit: DowntimeLimit::Auto,
            properties: Vec::new(),
            persistent: Vec::new(),
            wrap_policy: None,
            on_status: None,
        }
    }

    /// Longest downtime allowed: the guest is paused when it is expected to take no longer.
    #[must_use]
    pub fn downtime(self, downtime: impl Into<Downtime>) -> Self {
        let downtime = downtime.into();
        self.limit(|limits| limits.downtime = downtime)
    }

    /// How long the guest may stand still before it is handed over; then it goes on here.
    #[must_use]
    pub fn downtime_limit(mut self, limit: DowntimeLimit) -> Self {
        self.downtime_limit = limit;
        self
    }

    /// How long the guest may stand still, as its limits are now.
    pub fn longest_standstill(&self) -> Duration {
        let allowed = self.controls.settings().limits.downtime.most();
        let digested = match self.verify {
            true => self.ram.layout().pages().bytes(),
            false => ByteCount(0),
        };
        self.downtime_limit.time(allowed, digested)
    }

    /// Longest time from the beginning to the pause of the guest.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        self.limit(|limits| limits.deadline = Some(deadline))
    }

    /// What happens when the deadline has come.
    #[must_use]
    pub fn at_deadline(self, action: AtDeadline) -> Self {
        self.limit(|limits| limits.at_deadline = action)
    }

    /// What is done about a guest that writes faster than the link carries.
    #[must_use]
    pub fn policy(self, policy: PolicyKind) -> Self {
        self.limit(|limits| limits.policy = policy)
    }

    /// Cap on the rate of everything that is sent, also during the downtime.
    #[must_use]
    pub fn bandwidth(self, rate: Rate) -> Self {
        self.controls
            .change(|settings| settings.bandwidth = Some(rate));
        self
    }

    /// Number of data connections, 1 to [`MAX_CHANNELS`](crate::wire::MAX_CHANNELS).
    #[must_use]
    pub fn channels(mut self, channels: u16) -> Self {
        self.channels = channels;
        self
    }

    /// How pages are compressed.
    #[must_use]
    pub fn compress(mut self, setting: CompressSetting) -> Self {
        self.compress = setting;
        self
    }

    /// Most processor time that reading, encoding and sending may take.
    #[must_use]
    pub fn cpu_limit(mut self, limit: CpuLimit) -> Self {
        self.cpu = limit;
        self
    }

    /// Most threads that look for what the guest has written, where the kind of tracking has a use for
    /// more than one; part of the downtime is theirs.
    #[must_use]
    pub fn scan_threads(mut self, threads: NonZeroUsize) -> Self {
        self.scan_threads = Some(threads);
        self
    }

    /// Memory for the contents that deltas are made against.
    #[must_use]
    pub fn delta_cache(mut self, size: DeltaCacheSize) -> Self {
        self.delta_cache = size;
        self
    }

    /// Whether pages that the target has already are not sent.
    #[must_use]
    pub fn dedup(mut self, setting: DedupSetting) -> Self {
        self.dedup = setting;
        self
    }

    /// Compares the digests of all memory before the hand-over. Lengthens the downtime by the
    /// time to read all memory.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// What must be equal on both sides beside the memory's layout.
    #[must_use]
    pub fn properties(mut self, properties: Vec<GuestProperty>) -> Self {
        self.properties = properties;
        self
    }

    /// Files that the guest sees as memory and keeps its data in, as on a disk: an NVDIMM, say. They are
    /// no part of its RAM. They are neither sent nor cleared, and a target that has other ones refuses.
    #[must_use]
    pub fn persistent(mut self, files: Vec<PersistentFile>) -> Self {
        self.persistent = files;
        self
    }

    /// Takes settings and cancellation from `controls`, by which others may change the migration
    /// before it has started. Replaces the limits that were set here before.
    #[must_use]
    pub fn controls(mut self, controls: Controls) -> Self {
        self.controls = controls;
        self
    }

    /// Wraps the policy that the limits name: to record what it sees, say.
    #[must_use]
    pub fn wrap_policy(
        mut self,
        wrap: impl FnOnce(Box<dyn Policy>, Limits) -> Box<dyn Policy> + Send + 'static,
    ) -> Self {
        self.wrap_policy = Some(Box::new(wrap));
        self
    }

    /// Calls `told` with the status at every step of the coordinator, in its thread: often, and
    /// never long. Most embedders take [events](Job::next_event) instead.
    #[must_use]
    pub fn on_status(mut self, told: impl FnMut(&SourceStatus) + Send + 'static) -> Self {
        self.on_status = Some(Box::new(told));
        self
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Arc<dyn GuestMemory> {
        self.ram.memory()
    }

    /// Most memory that the migration takes on this side, beside the guest's own.
    pub fn memory_budget(&self) -> ByteCount {
        let layout = self.ram.layout();
        let deltas = match self.compress.wants_deltas() {
            true => self.delta_cache.for_guest(layout.pages()),
            false => ByteCount(0),
        };
        let connections = u64::from(self.channels) * self.link.connection_bytes().0;
        let own = budget::outgoing(layout, self.channels, self.compress, self.dedup);
        own + deltas + ByteCount(connections)
    }

    /// Starts the migration.
    ///
    /// # Errors
    /// When what it needs is not to be had. The guest runs on here, and was not touched.
    pub fn start(self) -> Result<Job<G, Report>, StartError> {
        let id = SessionId(random()?);
        let (memory, mut dirty) = self.ram.into_parts();
        let pages = memory.layout().pages();
        if let Some(threads) = self.scan_threads {
            dirty.set_scan_threads(threads).map_err(no_scan_threads)?;
        }
        let deltas = match self.compress {
            CompressSetting::Fixed(_) => None,
            // Too little for this guest's deltas is no reason not to move it.
            CompressSetting::Auto => Deltas::new(pages, self.delta_cache.for_guest(pages)).ok(),
            CompressSetting::Xbzrle => Some(Deltas::new(pages, self.delta_cache.for_guest(pages))?),
        };
        let deltas = deltas.map(Arc::new);
        let mut guest = self.guest;
        if guest.throttler().is_none() {
            self.controls
                .change(|settings| settings.limits.policy = PolicyKind::None);
        }
        let limits = self.controls.settings().limits;
        let mut policy: Box<dyn Policy> = Box::new(Limited::new(limits));
        if let Some(wrap) = self.wrap_policy {
            policy = wrap(policy, limits);
        }
        let options = SendOptions {
            session: id,
            channels: self.channels,
            verify: self.verify,
            downtime_limit: self.downtime_limit,
            properties: self.properties,
            persistent: self.persistent,
            compress: self.compress,
            deltas: deltas.clone(),
            cpu: self.cpu,
            dedup: self.dedup,
            policy,
        };
        let (link, mut on_status) = (self.link, self.on_status);
        let controls = self.controls.clone();
        Job::start(self.controls, deltas, Some(id), move |show| {
            let result = send(SendJob {
                link: &*link,
                memory,
                dirty: &mut *dirty,
                guest: &mut guest,
                ownership: Ownership::claim(),
                options,
                controls,
                progress: &mut |status| {
                    show(status);
                    if let Some(told) = &mut on_status {
                        told(status);
                    }
                },
            });
            (result, guest)
        })
    }

    fn limit(self, change: impl FnOnce(&mut Limits)) -> Self {
        self.controls
            .change(|settings| change(&mut settings.limits));
        self
    }
}

fn no_scan_threads(error: DirtyError) -> StartError {
    StartError::Kernel {
        what: "the page map of the guest's process for another thread",
        source: std::io::Error::other(error),
    }
}
