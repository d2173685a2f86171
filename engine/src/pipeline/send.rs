//! Sends a guest over a link: the threads of the source.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant as Moment};

use super::Step;
use super::clock::SystemClock;
use super::control::{ControlReader, lost};
use super::guest::SourceGuest;
use super::link::{Closer, Connection, Link};
use super::shared::Shared;
use super::source_channel::SourceChannel;
use super::source_driver::SourceDriver;
use crate::converge::Policy;
use crate::dirty::DirtySource;
use crate::memory::ReadPages;
use crate::migration::{
    Failure, GuestLocation, MigrationError, Report, RunRight, Source, SourceConfig, SourceStatus,
};
use crate::wire::{Fact, FrameReader, MAX_FRAME_PAGES, SessionId, StateChunk};

/// How long a source that has handed over tries to reach its target again.
const REATTACH: Duration = Duration::from_secs(8);

/// Pause between two tries to reach a target again.
const REATTACH_PAUSE: Duration = Duration::from_millis(200);

/// Most pages in one frame, see `docs/benchmarks.md`.
const FRAME_PAGES: u64 = 64;

const _: () = assert!(FRAME_PAGES <= MAX_FRAME_PAGES as u64);

/// How to send.
#[derive(Debug)]
pub struct SendOptions {
    /// Name of the migration; random.
    pub session: SessionId,
    /// Data channels, `1..=MAX_CHANNELS`.
    pub channels: u16,
    /// Whether to compare digests of all memory before the hand-over.
    pub verify: bool,
    /// What must be equal on both sides.
    pub facts: Vec<Fact>,
    /// Blackout with nothing to send, for the forecast.
    pub fixed_blackout: Duration,
    /// When to stop the guest, or to give up.
    pub policy: Box<dyn Policy>,
}

/// Everything that a sending needs.
pub struct SendJob<'a> {
    /// The way to the target.
    pub link: &'a dyn Link,
    /// The guest's memory.
    pub memory: Arc<dyn ReadPages>,
    /// What the guest writes.
    pub dirty: &'a mut dyn DirtySource,
    /// The guest.
    pub guest: &'a mut dyn SourceGuest,
    /// The right to run it.
    pub right: RunRight,
    /// How to send.
    pub options: SendOptions,
    /// Ends the migration from elsewhere.
    pub cancel: CancelToken,
    /// Told where the migration is, several times a second.
    pub progress: &'a mut dyn FnMut(&SourceStatus),
}

impl std::fmt::Debug for SendJob<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendJob")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Asks a running migration to end. Clones ask the same one.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks. The guest goes on on the source, unless it was handed over already.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The flag itself, for a signal handler to set.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Moves the guest to the target at the other end of the link.
///
/// # Errors
/// When the guest did not move; the failure says where it is. It then runs on the source as
/// before, with tracking disarmed, unless the failure says otherwise.
pub fn send(job: SendJob<'_>) -> Result<Report, Failure> {
    let clock = Arc::new(SystemClock::default());
    let channels = job.options.channels;
    let source = Source::new(
        SourceConfig {
            session: job.options.session,
            channels,
            frame_pages: FRAME_PAGES,
            verify: job.options.verify,
            layout: job.memory.layout().clone(),
            facts: job.options.facts,
            fixed_blackout: job.options.fixed_blackout,
            policy: job.options.policy,
        },
        super::Clock::now(&*clock),
    );
    let shared = Arc::new(Shared::new(source, clock));
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (mut driver, replies) = SourceDriver::new(
        Arc::clone(&shared),
        Arc::clone(&job.memory),
        job.dirty,
        job.guest,
        job.right,
        threads,
    );
    let mut session = Session {
        shared,
        link: job.link,
        memory: job.memory,
        channels,
        replies,
        closers: Arc::default(),
        workers: Vec::new(),
    };
    let result = session
        .open()
        .and_then(|()| session.drive(&mut driver, &job.cancel, job.progress))
        .map_err(|error| session.settle(&mut driver, error));
    session.close();
    match result {
        Ok(()) => Ok(session.shared.look(Source::report)),
        Err(None) => Ok(session.shared.look(Source::report)),
        Err(Some(failure)) => Err(failure),
    }
}

/// Threads and connections of one sending.
struct Session<'a> {
    shared: Arc<Shared<Source>>,
    link: &'a dyn Link,
    memory: Arc<dyn ReadPages>,
    channels: u16,
    replies: crossbeam_channel::Sender<StateChunk>,
    closers: Arc<Mutex<Vec<Closer>>>,
    workers: Vec<thread::JoinHandle<()>>,
}

impl Session<'_> {
    /// Opens the control connection, over which the handshake begins.
    fn open(&mut self) -> Result<(), MigrationError> {
        let reader = self.connect_control()?;
        self.spawn("pagelift-ctl", move |shared| read_control(shared, reader));
        Ok(())
    }

    fn connect_control(&mut self) -> Result<ControlReader<Source>, MigrationError> {
        let connection = self.dial()?;
        self.shared.control().connect(connection.tx);
        let reader = FrameReader::new(connection.rx);
        Ok(ControlReader::new(
            Arc::clone(&self.shared),
            reader,
            self.replies.clone(),
        ))
    }

    fn dial(&self) -> Result<Connection, MigrationError> {
        let connection = self.link.dial().map_err(|source| MigrationError::Link {
            what: "cannot connect to the target",
            source,
        })?;
        let mut closers = self.closers.lock().unwrap_or_else(PoisonError::into_inner);
        closers.push(connection.closer.clone());
        Ok(connection)
    }

    /// Opens the data channels; each gets a thread.
    fn open_channels(&mut self) -> Result<(), MigrationError> {
        for number in 0..self.channels {
            let tx = self.dial()?.tx;
            let (shared, memory) = (Arc::clone(&self.shared), Arc::clone(&self.memory));
            let mut channel = SourceChannel::open(shared, memory, number, tx)?;
            self.spawn("pagelift-data", move |shared| {
                run_channel(shared, || channel.step());
            });
        }
        Ok(())
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce(&Shared<Source>) + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || work(&shared));
        match thread {
            Ok(thread) => self.workers.push(thread),
            Err(source) => self.shared.fail(MigrationError::Link {
                what: "cannot start a thread",
                source,
            }),
        }
    }

    /// Steps the coordinator until the guest runs on the target.
    fn drive(
        &mut self,
        driver: &mut SourceDriver<'_>,
        cancel: &CancelToken,
        progress: &mut dyn FnMut(&SourceStatus),
    ) -> Result<(), MigrationError> {
        let mut channels_open = false;
        loop {
            if cancel.is_cancelled() && !self.shared.look(Source::has_handed_over) {
                return Err(MigrationError::Cancelled);
            }
            if !channels_open && self.shared.look(Source::is_accepted) {
                self.open_channels()?;
                channels_open = true;
            }
            let seen = self.shared.version();
            let step = driver.step()?;
            let now = self.shared.now();
            progress(&self.shared.look(|source| source.status(now)));
            match step {
                Step::Worked => {}
                Step::Wait(until) => {
                    let soon = now.after(Duration::from_millis(50));
                    self.shared.wait_past(seen, until.min(soon));
                }
                Step::Done => return Ok(()),
            }
        }
    }

    /// Ends a migration that went wrong. `None`: after a lost hand-over the target said that
    /// the guest runs there.
    fn settle(&mut self, driver: &mut SourceDriver<'_>, error: MigrationError) -> Option<Failure> {
        let handed_over = self.shared.look(Source::has_handed_over);
        let connection_lost = matches!(
            error,
            MigrationError::Link { .. } | MigrationError::PeerSilent { .. }
        );
        if !handed_over || !connection_lost {
            return Some(driver.fail(error));
        }
        let reason = match self.reattach(driver) {
            Ok(()) => return None,
            Err(reason) => reason,
        };
        let mut failure = driver.fail(MigrationError::InDoubt(reason));
        failure.guest = GuestLocation::Unknown;
        Some(failure)
    }

    /// Asks the target, over a new connection, where the hand-over stands; tells it again.
    fn reattach(&mut self, driver: &mut SourceDriver<'_>) -> Result<(), String> {
        let deadline = Moment::now() + REATTACH;
        let mut last = String::from("no connection");
        while Moment::now() < deadline {
            match self.try_reattach(driver, deadline) {
                Ok(()) => return Ok(()),
                Err(error) => last = error.to_string(),
            }
            thread::sleep(REATTACH_PAUSE);
        }
        Err(last)
    }

    fn try_reattach(
        &mut self,
        driver: &mut SourceDriver<'_>,
        deadline: Moment,
    ) -> Result<(), MigrationError> {
        let mut reader = self.connect_control()?;
        let now = self.shared.now();
        self.shared.with(|source| source.reattached(now));
        self.shared.flush_messages().map_err(lost)?;
        while Moment::now() < deadline {
            reader.step()?;
            if driver.step()? == Step::Done {
                return Ok(());
            }
        }
        Err(MigrationError::InDoubt("the target does not answer".into()))
    }

    /// Closes all connections and waits for the threads.
    fn close(&mut self) {
        for closer in self
            .closers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            closer.close();
        }
        self.shared.wake();
        for worker in self.workers.drain(..) {
            // A panic has been reported by the panic hook; the migration is over anyway.
            let _ = worker.join();
        }
    }
}

/// A thread that steps a worker until it is done; what goes wrong ends the migration.
pub(super) fn run_channel<M: super::Machine>(
    shared: &Shared<M>,
    mut step: impl FnMut() -> Result<Step, MigrationError>,
) {
    loop {
        let seen = shared.version();
        match step() {
            Ok(Step::Worked) => {}
            Ok(Step::Wait(until)) => shared.wait_past(seen, until),
            Ok(Step::Done) => return,
            Err(error) => return shared.fail(error),
        }
    }
}

fn read_control(shared: &Shared<Source>, mut reader: ControlReader<Source>) {
    loop {
        match reader.step() {
            // The reading itself waits; the state queue being full is the only other reason.
            Ok(Step::Worked | Step::Wait(_)) if !shared.look(Source::is_over) => {}
            Ok(_) => return,
            Err(error) => return shared.fail(error),
        }
    }
}
