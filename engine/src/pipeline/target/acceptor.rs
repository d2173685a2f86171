//! Accepts connections on the target.
//!
//! The first message of a connection says what it is for, and it is served for that.
//!
//! A stranger, and one of another migration, is dropped and does not disturb the migration. At
//! most [`MAX_CONNECTIONS`] are open at a time, each of which must speak within [`FIRST_FRAME`].
//! Like the other workers those here never wait: a thread or the simulator steps them.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::base_pages::BasePages;
use super::channel::TargetChannel;
use crate::memory::GuestMemory;
use crate::migration::{MigrationError, Target};
use crate::pipeline::Step;
use crate::pipeline::control::ControlReader;
use crate::pipeline::shared::Shared;
use crate::transport::{Closer, Connection, SendHalf};
use crate::units::Instant;
use crate::wire::{FrameReader, MAX_CHANNELS, Message, ReadOutcome, StateChunk};

/// How long a new connection may take to say what it is.
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// Most connections at a time: all channels, control, and a few that turn out to be strangers.
const MAX_CONNECTIONS: usize = MAX_CHANNELS as usize + 8;

/// Takes connections in and finds out what each is for.
pub struct Acceptor {
    shared: Arc<Shared<Target>>,
    memory: Arc<dyn GuestMemory>,
    base_pages: Arc<BasePages>,
    state: Sender<StateChunk>,
    /// Of the connections that are open, with their numbers.
    closers: Mutex<Vec<(u64, Closer)>>,
    next_number: AtomicU64,
    /// Whether a source has introduced itself: there is only one.
    greeted: AtomicBool,
    ended: AtomicBool,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Nothing has come in yet. Pages go to `memory`, device state to `state`.
    pub(super) fn new(
        shared: Arc<Shared<Target>>,
        memory: Arc<dyn GuestMemory>,
        base_pages: Arc<BasePages>,
        state: Sender<StateChunk>,
    ) -> Self {
        Self {
            shared,
            memory,
            base_pages,
            state,
            closers: Mutex::default(),
            next_number: AtomicU64::new(0),
            greeted: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared<Target>> {
        &self.shared
    }

    /// Takes a connection in. `None`: there are too many, and it was closed.
    pub fn take_in(self: &Arc<Self>, connection: Connection) -> Option<TargetWorker> {
        let Connection { tx, rx, closer, .. } = connection;
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let mut closers = self.closers();
        if closers.len() >= MAX_CONNECTIONS || self.has_ended() {
            drop(closers);
            closer.close();
            return None;
        }
        closers.push((number, closer));
        drop(closers);
        Some(TargetWorker {
            acceptor: Arc::clone(self),
            number,
            stage: Stage::New {
                tx,
                reader: FrameReader::new(rx),
                deadline: self.shared.now().after(FIRST_FRAME),
            },
        })
    }

    /// Whether [`close`](Self::close) was called.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Closes all connections: the workers come to their end.
    pub fn close(&self) {
        self.ended.store(true, Ordering::Release);
        for (_, closer) in self.closers().drain(..) {
            closer.close();
        }
        self.shared.wake();
    }

    fn leave(&self, number: u64) {
        let mut closers = self.closers();
        if let Some(at) = closers.iter().position(|(other, _)| *other == number) {
            let (_, closer) = closers.swap_remove(at);
            drop(closers);
            closer.close();
        }
    }

    fn closers(&self) -> MutexGuard<'_, Vec<(u64, Closer)>> {
        self.closers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_control(
        &self,
        tx: Box<dyn SendHalf>,
        reader: FrameReader<Box<dyn Read + Send>>,
    ) -> ControlReader<Target> {
        self.shared.control().connect(tx);
        ControlReader::new(Arc::clone(&self.shared), reader, self.state.clone())
    }

    fn control_failed(&self, reader: &ControlReader<Target>, error: MigrationError) {
        if reader.is_current() {
            let now = self.shared.now();
            self.shared.with(|target| target.control_failed(now, error));
        }
    }
}

/// Serves one connection of a target; closes it when dropped, unless the migration has failed:
/// then the coordinator still has to say why, and closes all of them.
#[derive(Debug)]
pub struct TargetWorker {
    acceptor: Arc<Acceptor>,
    number: u64,
    stage: Stage,
}

enum Stage {
    /// It has not said what it is for.
    New {
        tx: Box<dyn SendHalf>,
        reader: FrameReader<Box<dyn Read + Send>>,
        deadline: Instant,
    },
    Control(ControlReader<Target>),
    Data(Box<TargetChannel>),
    Over,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New { .. } => "New",
            Self::Control(_) => "Control",
            Self::Data(_) => "Data",
            Self::Over => "Over",
        })
    }
}

impl TargetWorker {
    /// Does one thing. What goes wrong ends the migration if it must, and the worker is done.
    pub fn step(&mut self) -> Step {
        if self.acceptor.has_ended() {
            return Step::Done;
        }
        match &mut self.stage {
            Stage::New { reader, .. } => match reader.read() {
                Ok(ReadOutcome::Frame(header)) => {
                    let message = Message::decode(header.kind, reader.body());
                    message.map_or(Step::Done, |message| self.introduced(message))
                }
                Ok(ReadOutcome::Pending) => self.wait_for_first(),
                // A stranger is dropped and does not disturb the migration.
                Err(_) => Step::Done,
            },
            Stage::Control(reader) => match reader.step() {
                Ok(step) => step,
                Err(error) => {
                    self.acceptor.control_failed(reader, error);
                    Step::Done
                }
            },
            Stage::Data(channel) => channel.step().unwrap_or_else(|error| {
                channel.shared().fail(error);
                Step::Done
            }),
            Stage::Over => Step::Done,
        }
    }

    fn wait_for_first(&self) -> Step {
        match &self.stage {
            Stage::New { deadline, .. } if self.acceptor.shared.now() < *deadline => Step::Quiet,
            _ => Step::Done,
        }
    }

    /// The first message says what the connection is for.
    fn introduced(&mut self, message: Message) -> Step {
        let Stage::New { tx, reader, .. } = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Step::Done;
        };
        let (acceptor, shared) = (&self.acceptor, &self.acceptor.shared);
        match message {
            Message::Hello(_) if !acceptor.greeted.swap(true, Ordering::AcqRel) => {
                let mut control = acceptor.read_control(tx, reader);
                if let Err(error) = control.take(message) {
                    acceptor.control_failed(&control, error);
                    return Step::Done;
                }
                self.stage = Stage::Control(control);
            }
            Message::Reattach(id) if shared.look(|target| target.accepts_reattach(id)) => {
                let control = acceptor.read_control(tx, reader);
                let now = shared.now();
                shared.with(|target| target.reattached(now));
                if let Err(source) = shared.flush_messages() {
                    let what = "the control connection was lost";
                    acceptor.control_failed(&control, MigrationError::Link { what, source });
                    return Step::Done;
                }
                self.stage = Stage::Control(control);
            }
            // One of another migration is a stranger.
            Message::Join(join) if shared.look(|target| target.is_session(join.session)) => {
                if let Err(error) = shared.with(|target| target.join(join.channel)) {
                    shared.fail(error);
                    return Step::Done;
                }
                self.stage = Stage::Data(Box::new(TargetChannel::new(
                    Arc::clone(shared),
                    Arc::clone(&acceptor.memory),
                    Arc::clone(&acceptor.base_pages),
                    join.channel,
                    reader,
                )));
            }
            _ => return Step::Done,
        }
        Step::Worked
    }
}

impl Drop for TargetWorker {
    fn drop(&mut self) {
        if !self.acceptor.shared.look(Target::is_over) {
            self.acceptor.leave(self.number);
        }
    }
}
