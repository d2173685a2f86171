//! One sending, step by step: opens the connections, steps the coordinator, and settles a
//! hand-over whose answer was lost.
//!
//! Like the other workers it never waits, and does no work but its own: what must go on beside
//! it (a reader, a data channel) is handed out as a [`SourceWorker`], for a thread or for the
//! simulator to step.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::cancel_watchdog::CancelWatchdog;
use super::channel::{Packing, SourceChannel};
use super::driver::SourceDriver;
use tracing::{debug, info, warn};

use crate::dirty::{ClearedPages, DirtySource};
use crate::guest::SourceGuest;
use crate::memory::ReadPages;
use crate::migration::{Failure, MigrationError, Ownership, REATTACH, Report, Source};
use crate::pipeline::Step;
use crate::pipeline::binding::{self, Opening};
use crate::pipeline::cancel::CancelToken;
use crate::pipeline::control::{ControlReader, lost};
use crate::pipeline::controls::Controls;
use crate::pipeline::patience::Patience;
use crate::pipeline::shared::Shared;
use crate::transport::{BindingProof, ChannelBinding, Connection, Peer, RateCapped, Role};
use crate::units::{Instant, Rate};
use crate::wire::{FrameReader, StateChunk};

/// Pause between two tries to reach a target again.
const REATTACH_PAUSE: Duration = Duration::from_millis(200);

/// What a session works with.
pub struct SourceParts<'a> {
    /// The way to the target.
    pub link: &'a dyn RateCapped,
    /// The guest's memory.
    pub memory: Arc<dyn ReadPages>,
    /// What the guest writes.
    pub dirty: &'a mut dyn DirtySource,
    /// The guest.
    pub guest: &'a mut dyn SourceGuest,
    /// The ownership of it.
    pub ownership: Ownership,
    /// Steers the migration from elsewhere, and ends it.
    pub controls: Controls,
    /// Threads that compute the digest of verify mode.
    pub digest_threads: usize,
    /// How pages are packed, and over how many channels they go.
    pub packing: Packing,
}

impl std::fmt::Debug for SourceParts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceParts").finish_non_exhaustive()
    }
}

/// The coordinator of a sending.
pub struct SourceSession<'a> {
    shared: Arc<Shared<Source>>,
    link: &'a dyn RateCapped,
    /// The guest's memory, as the data channels read it.
    memory: Arc<dyn ReadPages>,
    packing: Packing,
    replies: Sender<StateChunk>,
    driver: SourceDriver<'a>,
    controls: Controls,
    /// Changes of the controls that are in force.
    changes: u64,
    /// The cap that is.
    bandwidth: Option<Rate>,
    cancel: CancelToken,
    watchdog: Arc<CancelWatchdog>,
    /// For the target's word that the guest runs there.
    patience: Patience,
    /// What ties the first control connection to its ends, where the transport authenticates.
    binding: Option<ChannelBinding>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Connecting,
    /// The target has not agreed yet.
    Greeting,
    Migrating,
    Settling(Settling),
}

/// The hand-over was said, and the connection lost before the answer came.
#[derive(Debug)]
struct Settling {
    deadline: Instant,
    next_try: Instant,
    /// It was cancelled when it could not be any more: that does not count now.
    was_cancelled: bool,
    /// Whether a new connection carries the question.
    asked: bool,
    /// What went wrong last.
    why: String,
}

impl std::fmt::Debug for SourceSession<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceSession")
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl<'a> SourceSession<'a> {
    /// Prepares to send: the link is capped as the controls say. Nothing is connected yet.
    pub fn new(shared: Arc<Shared<Source>>, parts: SourceParts<'a>) -> Self {
        let memory = match parts.dirty.clear_before_read() {
            Some(marks) => Arc::new(ClearedPages {
                memory: Arc::clone(&parts.memory),
                marks,
            }),
            None => Arc::clone(&parts.memory),
        };
        let (driver, replies) = SourceDriver::new(
            Arc::clone(&shared),
            parts.memory,
            parts.dirty,
            parts.guest,
            parts.ownership,
            parts.digest_threads,
            parts.controls.cancel_token().clone(),
        );
        let bandwidth = parts.controls.settings().bandwidth;
        parts.link.set_rate(bandwidth);
        Self {
            shared,
            link: parts.link,
            memory,
            packing: parts.packing,
            replies,
            driver,
            cancel: parts.controls.cancel_token().clone(),
            bandwidth,
            controls: parts.controls,
            changes: 0,
            watchdog: Arc::default(),
            binding: None,
            patience: Patience::default(),
            stage: Stage::Connecting,
        }
    }

    /// Does one thing; what is to go on beside it is given to `spawn`. [`Step::Done`]: the guest
    /// runs on the target.
    ///
    /// # Errors
    /// When the guest did not move. Nothing must be stepped any more then.
    pub fn step(&mut self, spawn: &mut dyn FnMut(SourceWorker)) -> Result<Step, Failure> {
        self.advance(spawn).or_else(|error| self.settle(error))
    }

    fn advance(&mut self, spawn: &mut dyn FnMut(SourceWorker)) -> Result<Step, MigrationError> {
        if self.cancel.is_cancelled() && !self.shared.look(Source::has_handed_over) {
            return Err(MigrationError::Cancelled);
        }
        if let Some(settings) = self.controls.news(&mut self.changes) {
            info!(
                limits = %settings.limits,
                bandwidth_bytes_per_s = settings.bandwidth.map(|rate| rate.0),
                "settings"
            );
            self.link.set_rate(settings.bandwidth);
            let before = std::mem::replace(&mut self.bandwidth, settings.bandwidth);
            let now = self.shared.now();
            self.shared.with(|source| {
                if before != settings.bandwidth {
                    source.link_changed();
                }
                source.set_limits(now, &settings.limits);
            });
        }
        match &self.stage {
            Stage::Connecting => {
                let connection = self.open(Role::Control)?;
                self.binding = connection.peer.binding().cloned();
                spawn(self.read_control(connection));
                self.stage = Stage::Greeting;
            }
            Stage::Greeting if self.shared.look(Source::is_accepted) => {
                for number in 0..self.packing.channels {
                    let Connection { tx, peer, .. } = self.open(Role::Data(number))?;
                    let proof = self.prove(&peer, Opening::Join(number));
                    let (shared, memory) = (Arc::clone(&self.shared), Arc::clone(&self.memory));
                    let channel =
                        SourceChannel::open(shared, memory, number, tx, &self.packing, proof)?;
                    spawn(SourceWorker::Data(Box::new(channel)));
                }
                self.stage = Stage::Migrating;
            }
            Stage::Greeting | Stage::Migrating => {
                self.check_patience()?;
                return self.driver.step();
            }
            Stage::Settling(settling) => {
                let now = self.shared.now();
                let is_cancelled = self.cancel.is_cancelled() && !settling.was_cancelled;
                if now >= settling.deadline || is_cancelled {
                    return Err(MigrationError::InDoubt(settling.why.clone()));
                }
                if settling.asked {
                    return self.driver.step();
                }
                if now < settling.next_try {
                    return Ok(Step::Wait(settling.next_try));
                }
                spawn(self.ask_again()?);
            }
        }
        Ok(Step::Worked)
    }

    /// A target that was told to run the guest, and answers, must say at some time that it does.
    fn check_patience(&mut self) -> Result<(), MigrationError> {
        let waits = self.shared.look(Source::has_handed_over) && !self.shared.look(Source::is_over);
        let now = self.shared.now();
        if self
            .patience
            .is_over(now, waits, self.cancel.is_cancelled())
        {
            let why = "the target was told to run it and has not said that it does";
            return Err(MigrationError::InDoubt(why.into()));
        }
        Ok(())
    }

    /// Messages leave by `connection` from now on; the worker reads it.
    fn read_control(&self, connection: Connection) -> SourceWorker {
        self.shared.control().connect(connection.tx);
        SourceWorker::Control(ControlReader::new(
            Arc::clone(&self.shared),
            FrameReader::new(connection.rx),
            self.replies.clone(),
        ))
    }

    /// That the connection to `peer` belongs to this migration.
    fn prove(&self, peer: &Peer, opening: Opening) -> Option<BindingProof> {
        let session = self.shared.look(Source::session);
        binding::prove(self.binding.as_ref(), peer, session, opening)
    }

    fn open(&mut self, role: Role) -> Result<Connection, MigrationError> {
        let connection = self.link.connect(role);
        let connection = connection.map_err(|source| MigrationError::Link {
            what: "cannot connect to the target",
            source,
        })?;
        self.watchdog.connected(connection.closer.clone());
        let first = self.binding.as_ref().map(ChannelBinding::identity);
        let identity = connection.peer.binding().map(ChannelBinding::identity);
        if first.is_some() && identity != first {
            return Err(MigrationError::Link {
                what: "cannot connect to the target",
                source: io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "somebody else answers at its address than before",
                ),
            });
        }
        Ok(connection)
    }

    /// Asks the target, over a new connection, where the hand-over stands.
    fn ask_again(&mut self) -> Result<SourceWorker, MigrationError> {
        let connection = self.open(Role::Control)?;
        let proof = self.prove(&connection.peer, Opening::Reattach);
        let worker = self.read_control(connection);
        let now = self.shared.now();
        self.shared.with(|source| source.reattached(now, proof));
        self.shared.flush_messages().map_err(lost)?;
        if let Stage::Settling(settling) = &mut self.stage {
            settling.asked = true;
            "the target does not answer".clone_into(&mut settling.why);
        }
        Ok(worker)
    }

    /// Ends a migration that went wrong, unless asking the target may still settle it.
    fn settle(&mut self, error: MigrationError) -> Result<Step, Failure> {
        let handed_over = self.shared.look(Source::has_handed_over);
        let error = if !handed_over && self.cancel.is_cancelled() {
            self.watchdog.noticed();
            self.cancel.noticed();
            as_cancelled(error)
        } else {
            error
        };
        if !handed_over || !error.breaks_connection() {
            return Err(self.driver.fail(error));
        }
        // A reader of the old connection must not take the new one's failures for its own.
        self.close();
        let (now, why) = (self.shared.now(), error.to_string());
        match &mut self.stage {
            Stage::Settling(settling) => {
                debug!(why, "asking the target failed");
                settling.next_try = now.after(REATTACH_PAUSE);
                settling.asked = false;
                settling.why = why;
            }
            stage => {
                warn!(
                    why,
                    "the target is lost during the hand-over: asking it where the guest is"
                );
                *stage = Stage::Settling(Settling {
                    deadline: now.after(REATTACH),
                    next_try: now,
                    was_cancelled: self.cancel.is_cancelled(),
                    asked: false,
                    why,
                });
            }
        }
        Ok(Step::Worked)
    }

    /// Where the connections are closed if a cancellation is not noticed.
    pub(super) fn watchdog(&self) -> &Arc<CancelWatchdog> {
        &self.watchdog
    }

    /// The report of a guest that has moved.
    pub fn report(&self) -> Report {
        self.shared.look(Source::report)
    }

    /// Closes all connections: the workers come to their end.
    pub fn close(&mut self) {
        self.watchdog.close();
        self.shared.wake();
    }
}

/// What goes on beside a [`SourceSession`].
#[derive(Debug)]
pub enum SourceWorker {
    /// Reads the control connection.
    Control(ControlReader<Source>),
    /// Sends pages.
    Data(Box<SourceChannel>),
}

impl SourceWorker {
    /// A name for its thread.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Control(_) => "pagelift-ctl",
            Self::Data(_) => "pagelift-data",
        }
    }

    /// Does one thing. What goes wrong ends the migration, and the worker is done.
    pub fn step(&mut self) -> Step {
        match self {
            Self::Control(reader) => {
                let shared = reader.shared();
                if shared.look(Source::is_over) {
                    return Step::Done;
                }
                let error = match reader.step() {
                    Ok(step) => return step,
                    Err(error) => error,
                };
                if reader.is_current() {
                    reader.shared().fail(error);
                }
                Step::Done
            }
            Self::Data(channel) => channel.step().unwrap_or_else(|error| {
                channel.shared().fail(error);
                Step::Done
            }),
        }
    }
}

/// What ended a migration that was cancelled. Calls that fail because their connection was closed
/// on them, or because somebody was in a hurry, are not what ended it.
fn as_cancelled(error: MigrationError) -> MigrationError {
    if error.breaks_connection() || matches!(error, MigrationError::Guest(_)) {
        return MigrationError::Cancelled;
    }
    error
}
