//! The source: sends a guest over a link.
//!
//! [`send`] starts the threads and waits for them. The [session](SourceSession) opens connections
//! and steps the [driver](SourceDriver), which does what the machine asks for; each data
//! [channel](SourceChannel) takes pages, encodes and sends them.

mod cancel_watchdog;
mod channel;
mod cpu_limiter;
mod deltas;
mod driver;
mod encode;
mod send_samples;
mod session;
mod throttle;

pub use channel::{Packing, SourceChannel};
pub use deltas::Deltas;
pub use driver::SourceDriver;
pub use session::{SourceParts, SourceSession, SourceWorker};

use std::num::{NonZero, NonZeroU16};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::cancel_watchdog::CancelWatchdog;
use super::{Step, run_worker};
use crate::codec::CompressSetting;
use crate::codec::dedup::{DedupSetting, max_base_pages};
use crate::codec::select::CpuLimit;
use crate::converge::Policy;
use crate::dirty::DirtySource;
use crate::guest::SourceGuest;
use crate::memory::{FileIdentity, InFiles, PersistentFile, ReadPages};
use crate::migration::{
    DowntimeLimit, Failure, MigrationError, Ownership, Report, Source, SourceConfig, SourceStatus,
};
use crate::pipeline::clock::SystemClock;
use crate::pipeline::controls::Controls;
use crate::pipeline::log::SourceLog;
use crate::pipeline::shared::Shared;
use crate::transport::RateCapped;
use crate::wire::{Encodings, GuestProperty, MAX_FRAME_PAGES, SessionId};

/// Longest wait of the coordinator, so that progress is told several times a second.
const PROGRESS_TICK: Duration = Duration::from_millis(50);

/// Most pages in one frame, see `docs/benchmarks.md`.
const FRAME_PAGES: u64 = 128;

const _: () = assert!(FRAME_PAGES <= MAX_FRAME_PAGES as u64);

/// How to send.
#[derive(Debug)]
pub(crate) struct SendOptions {
    /// Name of the migration; random.
    pub(crate) session: SessionId,
    /// Data channels, `1..=MAX_CHANNELS`.
    pub(crate) channels: u16,
    /// Whether to compare digests of all memory before the hand-over.
    pub(crate) verify: bool,
    /// How long the guest may stand still before it is handed over.
    pub(crate) downtime_limit: DowntimeLimit,
    /// What must be equal on both sides.
    pub(crate) properties: Vec<GuestProperty>,
    /// Files that the guest keeps data in, which the target must have as well.
    pub(crate) persistent: Vec<PersistentFile>,
    /// How pages are compressed.
    pub(crate) compress: CompressSetting,
    /// Sends pages that change again as what changed in them;
    /// [`CompressSetting::wants_deltas`] says whether the setting asks for it.
    pub(crate) deltas: Option<Arc<Deltas>>,
    /// How much of the processors the data channels may use.
    pub(crate) cpu: CpuLimit,
    /// Whether pages that the target has already go as references.
    pub(crate) dedup: DedupSetting,
    /// When to stop the guest, or to give up: under the limits that the job's controls begin with,
    /// [`Limited`](crate::converge::Limited) if they are to have an effect.
    pub(crate) policy: Box<dyn Policy>,
}

/// Everything that a sending needs.
pub(crate) struct SendJob<'a> {
    /// The way to the target.
    pub(crate) link: &'a dyn RateCapped,
    /// The guest's memory.
    pub(crate) memory: Arc<dyn ReadPages>,
    /// What the guest writes.
    pub(crate) dirty: &'a mut dyn DirtySource,
    /// The guest.
    pub(crate) guest: &'a mut dyn SourceGuest,
    /// The ownership of it.
    pub(crate) ownership: Ownership,
    /// How to send.
    pub(crate) options: SendOptions,
    /// Steers the migration from elsewhere, and ends it.
    pub(crate) controls: Controls,
    /// Told where the migration is, several times a second.
    pub(crate) progress: &'a mut dyn FnMut(&SourceStatus),
}

impl std::fmt::Debug for SendJob<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendJob")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Moves the guest to the target at the other end of the link.
///
/// # Errors
/// When the guest did not move; the failure says where it is. It then runs on the source as
/// before, with tracking disarmed, unless the failure says otherwise.
pub(crate) fn send(job: SendJob<'_>) -> Result<Report, Failure> {
    let span = SourceLog::span(job.options.session);
    let _inside = span.enter();
    let mut log = SourceLog::default();
    let clock = Arc::new(SystemClock::default());
    let cpu = job.options.cpu;
    let channels =
        NonZeroU16::new(job.options.channels).map_or(1, |channels| cpu.workers(channels).get());
    let compress = job.options.compress;
    let dedup = job.options.dedup;
    let source = Source::new(
        SourceConfig {
            session: job.options.session,
            channels,
            frame_pages: FRAME_PAGES,
            verify: job.options.verify,
            dedup: match dedup {
                DedupSetting::Off => None,
                DedupSetting::Auto | DedupSetting::On => {
                    Some(max_base_pages(job.memory.layout().pages()))
                }
            },
            layout: job.memory.layout().clone(),
            files: shown_files(&*job.memory, job.options.session),
            persistent: shown_persistent(&job.options),
            properties: job.options.properties,
            needs: Encodings::needed_by(compress),
            downtime_limit: job.options.downtime_limit,
            policy: job.options.policy,
        },
        super::clock::Clock::now(&*clock),
    );
    let shared = Arc::new(Shared::new(source, clock));
    let controls = job.controls.clone();
    let parts = SourceParts {
        link: job.link,
        memory: job.memory,
        dirty: job.dirty,
        guest: job.guest,
        ownership: job.ownership,
        controls: job.controls,
        packing: Packing {
            compress,
            deltas: job.options.deltas,
            cpu,
            channels,
            dedup,
        },
        digest_threads: thread::available_parallelism().map_or(1, NonZero::get),
    };
    let mut session = SourceSession::new(Arc::clone(&shared), parts);
    let watchdog = Arc::clone(session.watchdog());
    listen(&controls, &shared, &watchdog);
    let mut threads = Vec::new();
    match start_watchdog(&shared, &watchdog, &controls) {
        Ok(thread) => threads.push(thread),
        Err(error) => shared.fail(error),
    }
    let mut spawn = |worker| match start(&shared, worker) {
        Ok(thread) => threads.push(thread),
        Err(error) => shared.fail(error),
    };
    let result = loop {
        let seen = shared.version();
        let step = session.step(&mut spawn);
        let now = shared.now();
        let status = shared.look(|source| source.status(now));
        log.saw(&status);
        (job.progress)(&status);
        match step {
            Ok(Step::Worked | Step::Quiet) => {}
            Ok(Step::Wait(until)) => shared.wait_past(seen, until.min(now.after(PROGRESS_TICK))),
            Ok(Step::Done) => break Ok(session.report()),
            Err(failure) => break Err(failure),
        }
    };
    SourceLog::ended(&result);
    controls.forget();
    watchdog.over();
    session.close();
    for thread in threads {
        // A panic has been reported by the panic hook; the migration is over anyway.
        let _ = thread.join();
    }
    result
}

/// The files of the guest's memory, as they are shown in this migration.
fn shown_files(memory: &dyn ReadPages, session: SessionId) -> Vec<FileIdentity> {
    let files = memory.in_files().map_or_else(Vec::new, InFiles::files);
    let shown = files.iter().map(|file| file.identity(session.0));
    shown.collect()
}

/// The files that the guest keeps data in, as they are shown in this migration.
fn shown_persistent(options: &SendOptions) -> Vec<(String, FileIdentity)> {
    let shown = options
        .persistent
        .iter()
        .map(|PersistentFile { file, .. }| {
            let identity = file.identity(options.session.0);
            (file.name.clone(), identity)
        });
    shown.collect()
}

/// Gives a worker a thread.
fn start(
    shared: &Arc<Shared<Source>>,
    mut worker: SourceWorker,
) -> Result<JoinHandle<()>, MigrationError> {
    let shared = Arc::clone(shared);
    thread::Builder::new()
        .name(worker.name().into())
        .spawn(move || run_worker(&shared, || worker.step()))
        .map_err(no_thread)
}

/// Has the coordinator and its watchdog woken by what `controls` are told.
fn listen(controls: &Controls, shared: &Arc<Shared<Source>>, watchdog: &Arc<CancelWatchdog>) {
    let coordinator = Arc::clone(shared);
    controls.on_change(move || coordinator.wake());
    let (coordinator, watchdog) = (Arc::clone(shared), Arc::clone(watchdog));
    controls.cancel_token().on_cancel(move || {
        watchdog.wake();
        coordinator.wake();
    });
}

/// Starts the thread that closes the connections if the coordinator does not notice a cancellation.
fn start_watchdog(
    shared: &Arc<Shared<Source>>,
    watchdog: &Arc<CancelWatchdog>,
    controls: &Controls,
) -> Result<JoinHandle<()>, MigrationError> {
    let (shared, watchdog) = (Arc::clone(shared), Arc::clone(watchdog));
    let cancel = controls.cancel_token().clone();
    thread::Builder::new()
        .name("pagelift-stop".into())
        .spawn(move || watchdog.watch(&shared, &cancel))
        .map_err(no_thread)
}

fn no_thread(source: std::io::Error) -> MigrationError {
    MigrationError::Link {
        what: "cannot start a thread",
        source,
    }
}
