//! The target: receives a guest over a link.
//!
//! [`receive`] starts the threads and waits for them. The [acceptor](Acceptor) finds out what each
//! connection is for; the [session](TargetSession) steps the [driver](TargetDriver), which does what
//! the machine asks for; each data [channel](TargetChannel) receives pages and places them.

mod acceptor;
mod base_pages;
mod channel;
mod connections;
pub(super) mod dedup;
mod driver;
mod fences;
mod fingerprints;
pub(super) mod placer;
mod session;

pub(crate) use acceptor::FIRST_FRAME_BYTES;
pub use acceptor::{Acceptor, TargetWorker};
pub use base_pages::BasePages;
pub use channel::TargetChannel;
pub(crate) use connections::MAX_STRANGERS;
pub use driver::TargetDriver;
pub use fingerprints::FingerprintWorker;
pub use session::TargetSession;

use std::io;
use std::sync::Arc;
use std::thread::{self, Scope};
use std::time::Duration;

use rustix::io::Errno;
use tracing::warn;

use super::{Step, run_worker};
use crate::guest::TargetGuest;
use crate::memory::{GuestMemory, InFiles, PersistentFile};
use crate::migration::{Failure, MigrationError, Target, TargetConfig, TargetStatus};
use crate::pipeline::cancel::CancelToken;
use crate::pipeline::clock::SystemClock;
use crate::pipeline::log::TargetLog;
use crate::pipeline::shared::Shared;
use crate::transport::Listener;
use crate::wire::{Encodings, GuestProperty};

/// How long one wait for a new connection lasts, and the coordinator's longest wait.
const ACCEPT_TICK: Duration = Duration::from_millis(100);

/// Everything that a receiving needs.
pub(crate) struct ReceiveJob<'a> {
    /// Where the source comes in.
    pub(crate) listener: &'a dyn Listener,
    /// The guest's memory.
    pub(crate) memory: Arc<dyn GuestMemory>,
    /// The guest.
    pub(crate) guest: &'a mut dyn TargetGuest,
    /// What must be equal on both sides.
    pub(crate) properties: Vec<GuestProperty>,
    /// Files that the guest keeps data in, which must be the source's.
    pub(crate) persistent: Vec<PersistentFile>,
    /// Pages that this side has already, for the source to refer to.
    pub(crate) base_pages: BasePages,
    /// Ends the migration from elsewhere.
    pub(crate) cancel: CancelToken,
    /// Told where the migration is, several times a second.
    pub(crate) progress: &'a mut dyn FnMut(&TargetStatus),
}

impl std::fmt::Debug for ReceiveJob<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveJob")
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

/// A guest that was received and runs here.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Where the migration ended.
    pub status: TargetStatus,
    /// Whether the source compared the digests of the memory.
    pub verified: bool,
}

/// Waits for a source and takes its guest.
///
/// # Errors
/// When the guest did not arrive; the failure says where it is.
pub(crate) fn receive(job: ReceiveJob<'_>) -> Result<Received, Failure> {
    let mut log = TargetLog::new();
    let span = log.span();
    let _inside = span.enter();
    let clock = Arc::new(SystemClock::default());
    let config = TargetConfig {
        layout: job.memory.layout().clone(),
        files: job.memory.in_files().map_or_else(Vec::new, InFiles::files),
        persistent: job.persistent,
        properties: job.properties,
        dedup: Some(job.base_pages.terms()),
        reads: Encodings::readable(),
    };
    let target = Target::new(config, super::clock::Clock::now(&*clock));
    let shared = Arc::new(Shared::new(target, clock));
    let base_pages = Arc::new(job.base_pages);
    let mut fingerprints = FingerprintWorker::new(Arc::clone(&shared), Arc::clone(&base_pages));
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut session = TargetSession::new(
        Arc::clone(&shared),
        job.memory,
        base_pages,
        job.guest,
        job.cancel,
        threads,
    )?;
    let acceptor = Arc::clone(session.acceptor());
    thread::scope(|scope| {
        scope.spawn(|| run_worker(&shared, || fingerprints.step()));
        scope.spawn(|| accept(scope, &shared, &acceptor, job.listener));
        let result = loop {
            let seen = shared.version();
            let step = session.step();
            let (session, status) = shared.look(|target| (target.session(), target.status()));
            log.saw(session, &status);
            (job.progress)(&status);
            match step {
                Ok(Step::Worked | Step::Quiet) => {}
                Ok(Step::Wait(until)) => {
                    shared.wait_past(seen, until.min(shared.now().after(ACCEPT_TICK)));
                }
                Ok(Step::Done) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        TargetLog::ended(&result);
        acceptor.close();
        result.map(|()| Received {
            status: shared.look(Target::status),
            verified: session.verify(),
        })
    })
}

/// Takes connections until the receiving ends; each gets a thread.
///
/// A lack of descriptors, memory or threads ends nothing: a stranger is closed if there is one, and
/// the next try comes after a pause.
fn accept<'scope>(
    scope: &'scope Scope<'scope, '_>,
    shared: &'scope Shared<Target>,
    acceptor: &Arc<Acceptor>,
    listener: &dyn Listener,
) {
    let mut is_short = false;
    let mut wait_for = |what: &str, error: &io::Error| {
        if !std::mem::replace(&mut is_short, true) {
            warn!(%error, "{what}; strangers are closed, and others are asked to wait");
        }
        acceptor.close_a_stranger();
        thread::sleep(ACCEPT_TICK);
    };
    while !acceptor.has_ended() {
        acceptor.close_overdue();
        match listener.accept(ACCEPT_TICK) {
            Ok(None) => {}
            Ok(Some(connection)) => {
                let Some(mut worker) = acceptor.take_in(connection) else {
                    continue;
                };
                let thread = thread::Builder::new().name("pagelift-conn".into());
                let serve = move || run_worker(shared, || worker.step());
                if let Err(error) = thread.spawn_scoped(scope, serve) {
                    wait_for("no thread for a connection", &error);
                }
            }
            Err(error) if is_shortage(&error) => wait_for("cannot accept connections", &error),
            Err(source) => {
                let what = "cannot accept connections";
                return shared.fail(MigrationError::Link { what, source });
            }
        }
    }
}

/// Whether accept(2) failed for want of something that others may give back.
fn is_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| {
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&errno)
    })
}
