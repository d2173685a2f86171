//! Receives a guest over a link: the threads of the target.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant as Moment};

use crossbeam_channel::Sender;

use super::Step;
use super::clock::SystemClock;
use super::control::ControlReader;
use super::guest::TargetGuest;
use super::link::{Closer, Connection, Listener};
use super::send::{CancelToken, run_channel};
use super::shared::Shared;
use super::target_channel::TargetChannel;
use super::target_driver::TargetDriver;
use crate::memory::{ReadPages, WritePages};
use crate::migration::{
    Failure, GuestLocation, MigrationError, Target, TargetConfig, TargetStatus,
};
use crate::wire::{Fact, FrameReader, MAX_CHANNELS, Message, ReadOutcome, StateChunk};

/// How long a new connection may take to say what it is.
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// How long a target whose guest runs answers a source that lost the connection.
const LINGER: Duration = Duration::from_secs(10);

/// How long one wait for a new connection lasts.
const ACCEPT_TICK: Duration = Duration::from_millis(100);

/// Most connections at a time: all channels, control, and a few that turn out to be strangers.
const MAX_CONNECTIONS: usize = MAX_CHANNELS as usize + 8;

/// Everything that a receiving needs.
pub struct ReceiveJob<'a> {
    /// Where the source comes in.
    pub listener: &'a dyn Listener,
    /// The guest's memory, to write.
    pub pages: Arc<dyn WritePages>,
    /// The same memory, to read.
    pub content: Arc<dyn ReadPages>,
    /// The guest.
    pub guest: &'a mut dyn TargetGuest,
    /// What must be equal on both sides.
    pub facts: Vec<Fact>,
    /// Ends the migration from elsewhere.
    pub cancel: CancelToken,
    /// Told where the migration is, several times a second.
    pub progress: &'a mut dyn FnMut(&TargetStatus),
}

impl std::fmt::Debug for ReceiveJob<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveJob")
            .field("facts", &self.facts)
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
pub fn receive(job: ReceiveJob<'_>) -> Result<Received, Failure> {
    let clock = Arc::new(SystemClock::default());
    let config = TargetConfig {
        layout: job.pages.layout().clone(),
        facts: job.facts,
    };
    let target = Target::new(config, super::Clock::now(&*clock));
    let shared = Arc::new(Shared::new(target, clock));
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let driver = TargetDriver::new(
        Arc::clone(&shared),
        Arc::clone(&job.pages),
        job.content,
        job.guest,
        threads,
    );
    let (mut driver, state) = driver.map_err(|error| Failure {
        error,
        guest: GuestLocation::Source,
    })?;
    let session = Session {
        shared,
        pages: job.pages,
        state,
        closers: Mutex::default(),
        connections: AtomicUsize::new(0),
        controlled: AtomicBool::new(false),
        ended: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        scope.spawn(|| session.accept(scope, job.listener));
        let result = session.drive(&mut driver, &job.cancel, job.progress);
        let result = result.map_err(|error| driver.fail(error));
        if result.is_ok() {
            session.linger();
        }
        session.close();
        result.map(|()| Received {
            status: session.shared.look(Target::status),
            verified: session.shared.look(Target::verify),
        })
    })
}

/// Threads and connections of one receiving.
struct Session {
    shared: Arc<Shared<Target>>,
    pages: Arc<dyn WritePages>,
    state: Sender<StateChunk>,
    closers: Mutex<Vec<Closer>>,
    connections: AtomicUsize,
    /// Whether there is a control connection.
    controlled: AtomicBool,
    ended: AtomicBool,
}

impl Session {
    /// Steps the coordinator until the guest runs.
    fn drive(
        &self,
        driver: &mut TargetDriver<'_>,
        cancel: &CancelToken,
        progress: &mut dyn FnMut(&TargetStatus),
    ) -> Result<(), MigrationError> {
        loop {
            if cancel.is_cancelled() && !self.shared.look(Target::owns_guest) {
                return Err(MigrationError::Cancelled);
            }
            let seen = self.shared.version();
            let step = driver.step()?;
            progress(&self.shared.look(Target::status));
            match step {
                Step::Worked => {}
                Step::Wait(until) => self.shared.wait_past(seen, until),
                Step::Done => return Ok(()),
            }
        }
    }

    /// Takes connections until the session ends; each gets a thread.
    fn accept<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, listener: &dyn Listener) {
        while !self.ended.load(Ordering::Acquire) {
            match listener.accept(ACCEPT_TICK) {
                Ok(None) => {}
                Ok(Some(connection)) => {
                    // A stranger beyond the limit is dropped, which closes its connection.
                    if self.connections.fetch_add(1, Ordering::AcqRel) < MAX_CONNECTIONS {
                        scope.spawn(move || {
                            self.serve(connection);
                            self.connections.fetch_sub(1, Ordering::AcqRel);
                        });
                    } else {
                        self.connections.fetch_sub(1, Ordering::AcqRel);
                    }
                }
                Err(source) => {
                    let what = "cannot accept connections";
                    return self.shared.fail(MigrationError::Link { what, source });
                }
            }
        }
    }

    /// Finds out what a connection is for, and serves it. A stranger is dropped and does not
    /// disturb the migration, however many there are.
    ///
    /// A connection of the source's stays open when its serving ends: it may have ended because
    /// of a failure, and the source must hear the reason before it finds connections closed.
    fn serve(&self, connection: Connection) {
        let Connection { tx, rx, closer } = connection;
        let mut reader = FrameReader::new(rx);
        let first = self.first_message(&mut reader);
        let keep = || {
            let mut closers = self.closers.lock().unwrap_or_else(PoisonError::into_inner);
            closers.push(closer.clone());
        };
        match first {
            Some(message @ Message::Hello(_)) if !self.controlled.swap(true, Ordering::AcqRel) => {
                keep();
                self.shared.control().connect(tx);
                self.serve_control(reader, Some(message));
            }
            Some(Message::Reattach(id))
                if self.shared.look(|target| target.accepts_reattach(id)) =>
            {
                keep();
                self.shared.control().connect(tx);
                let now = self.shared.now();
                self.shared.with(|target| target.reattached(now));
                self.controlled.store(true, Ordering::Release);
                if self.shared.flush_messages().is_ok() {
                    self.serve_control(reader, None);
                }
            }
            Some(Message::Join(join)) => {
                match self
                    .shared
                    .with(|target| target.join(join.session, join.channel))
                {
                    Ok(()) => {
                        keep();
                        self.serve_data(join.channel, reader);
                    }
                    Err(error) => self.shared.fail(error),
                }
            }
            _ => closer.close(),
        }
    }

    /// The first message of a connection, if it comes in time and is well-formed.
    fn first_message(
        &self,
        reader: &mut FrameReader<Box<dyn std::io::Read + Send>>,
    ) -> Option<Message> {
        let deadline = Moment::now() + FIRST_FRAME;
        while Moment::now() < deadline && !self.ended.load(Ordering::Acquire) {
            match reader.read() {
                Ok(ReadOutcome::Pending) => {}
                Ok(ReadOutcome::Frame(header)) => {
                    return Message::decode(header.kind, reader.body()).ok();
                }
                Err(_) => return None,
            }
        }
        None
    }

    fn serve_control(
        &self,
        reader: FrameReader<Box<dyn std::io::Read + Send>>,
        first: Option<Message>,
    ) {
        let mut control = ControlReader::new(Arc::clone(&self.shared), reader, self.state.clone());
        let mut result = first.map_or(Ok(Step::Worked), |message| control.take(message));
        while result.is_ok() && !self.ended.load(Ordering::Acquire) {
            result = control.step();
        }
        self.controlled.store(false, Ordering::Release);
        self.shared.wake();
        let Err(error) = result else { return };
        let now = self.shared.now();
        let lost = matches!(error, MigrationError::Link { .. });
        if !(lost && self.shared.with(|target| target.disconnected(now))) {
            self.shared.fail(error);
        }
    }

    fn serve_data(&self, number: u16, reader: FrameReader<Box<dyn std::io::Read + Send>>) {
        let shared = Arc::clone(&self.shared);
        let mut channel = TargetChannel::new(shared, Arc::clone(&self.pages), number, reader);
        run_channel(&self.shared, || channel.step());
    }

    /// Stays for a source that lost the connection and wants to know how it ended.
    fn linger(&self) {
        let deadline = Moment::now() + LINGER;
        while self.controlled.load(Ordering::Acquire) && Moment::now() < deadline {
            let soon = self.shared.now().after(ACCEPT_TICK);
            self.shared.wait_past(self.shared.version(), soon);
        }
    }

    /// Closes all connections; the scope waits for the threads.
    fn close(&self) {
        self.ended.store(true, Ordering::Release);
        for closer in self
            .closers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            closer.close();
        }
        self.shared.wake();
    }
}
