//! Accepts connections on the target.
//!
//! The first message of a connection says what it is for, and it is served for that.
//!
//! A stranger, one of another migration, and one that cannot prove that it belongs to this one, is
//! dropped and does not disturb it. What strangers may take is bounded
//! ([`connections`](super::connections)). A source that nobody has authenticated and whose guest does
//! not fit is refused without ending anything, and learns what differs, not how.
//!
//! Like the other workers those here never wait: a thread or the simulator steps them.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_channel::Sender;
use tracing::{debug, info, warn};

use super::base_pages::BasePages;
use super::channel::TargetChannel;
use super::connections::Connections;
use super::fences::Fences;
use crate::memory::{GuestMemory, InPlaceMemory};
use crate::migration::{MigrationError, Misfit, Target};
use crate::pipeline::Step;
use crate::pipeline::binding::{Opening, belongs};
use crate::pipeline::control::ControlReader;
use crate::pipeline::shared::Shared;
use crate::transport::{BindingProof, ChannelBinding, Connection, Expose, Peer, SendHalf};
use crate::wire::{
    FrameReader, FrameWriter, Hello, Join, Message, ReadOutcome, Reattach, Refuse, SessionId,
    StateChunk,
};

/// Most bytes of a connection's first frame. A `Hello` with a thousand regions and properties has
/// fewer.
pub(crate) const FIRST_FRAME_BYTES: usize = 256 << 10;

/// Of how many guests that do not fit users are warned.
const MISFITS_WARNED: u32 = 10;

/// Takes connections in and finds out what each is for.
pub struct Acceptor {
    shared: Arc<Shared<Target>>,
    memory: Arc<dyn GuestMemory>,
    base_pages: Arc<BasePages>,
    state: Sender<StateChunk>,
    fences: Arc<Fences>,
    connections: Mutex<Connections>,
    /// The source has introduced itself, of which there is only one: what ties its first control
    /// connection to it, where the transport authenticates.
    source: OnceLock<Option<ChannelBinding>>,
    /// Guests that did not fit, of sources that nobody has authenticated.
    misfits: AtomicU32,
    ended: AtomicBool,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Nothing has come in yet. Pages go to `memory`, device state to `state`; one-sided sources are kept
    /// out by `fences`.
    pub(super) fn new(
        shared: Arc<Shared<Target>>,
        memory: Arc<dyn GuestMemory>,
        base_pages: Arc<BasePages>,
        state: Sender<StateChunk>,
        fences: Arc<Fences>,
    ) -> Self {
        Self {
            shared,
            memory,
            base_pages,
            state,
            fences,
            connections: Mutex::default(),
            source: OnceLock::new(),
            misfits: AtomicU32::new(0),
            ended: AtomicBool::new(false),
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared<Target>> {
        &self.shared
    }

    /// Takes a connection in. `None`: nothing is accepted any more, and it was closed.
    pub fn take_in(self: &Arc<Self>, connection: Connection) -> Option<TargetWorker> {
        let Connection {
            tx,
            rx,
            closer,
            peer,
            one_sided,
        } = connection;
        let now = self.shared.now();
        let mut connections = self.connections();
        if self.has_ended() {
            drop(connections);
            closer.close();
            return None;
        }
        let number = connections.take_in(now, peer.address(), closer);
        drop(connections);
        Some(TargetWorker {
            acceptor: Arc::clone(self),
            number,
            stage: Stage::New {
                tx,
                reader: FrameReader::limited(rx, FIRST_FRAME_BYTES),
                peer,
                one_sided,
            },
        })
    }

    /// Closes connections that have not said in time what they are. To be called now and then: a
    /// worker may wait in the middle of a read.
    pub fn close_overdue(&self) {
        let now = self.shared.now();
        self.connections().close_overdue(now);
    }

    /// Descriptors or memory are short: closes a connection that has not said what it is; whether
    /// there was one.
    pub fn close_a_stranger(&self) -> bool {
        self.connections().close_a_stranger()
    }

    /// Whether [`close`](Self::close) was called.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Closes all connections: the workers come to their end.
    pub fn close(&self) {
        self.ended.store(true, Ordering::Release);
        self.connections().close_all();
        self.shared.wake();
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a connection that names `session` was opened by the source, for `opening`.
    fn is_of_source(
        &self,
        peer: &Peer,
        session: SessionId,
        opening: Opening,
        proof: Option<&BindingProof>,
    ) -> bool {
        let Some(first) = self.source.get() else {
            return false;
        };
        self.shared.look(|target| target.is_session(session))
            && belongs(first.as_ref(), peer, session, opening, proof)
    }

    /// What is said to a source that nobody has authenticated and whose guest does not fit. One that
    /// is authenticated is who the user has let in: it ends the wait, and both sides say why.
    fn refusal(&self, peer: &Peer, hello: &Hello) -> Option<Message> {
        if peer.binding().is_some() {
            return None;
        }
        let misfits = self.shared.look(|target| target.incompatibilities(hello));
        if misfits.is_empty() {
            return None;
        }
        let reasons: Vec<_> = misfits.iter().map(Misfit::whole).collect();
        let (from, why) = (peer.address(), reasons.join("; "));
        // What strangers say is quoted, and does not fill the log.
        match self.misfits.fetch_add(1, Ordering::Relaxed) {
            ..MISFITS_WARNED => warn!(from, ?why, "refused a guest that does not fit"),
            _ => debug!(from, ?why, "refused a guest that does not fit"),
        }
        Some(Message::Refuse(Refuse {
            reasons: Misfit::all_public(&misfits),
        }))
    }

    /// Notes that a connection was refused, and why. What strangers say is quoted.
    fn refused(&self, peer: &Peer, why: &str) {
        let from = peer.address();
        info!(from, ?why, "refused a connection");
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
        peer: Peer,
        one_sided: Option<Box<dyn Expose>>,
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
            Stage::New { .. } if !self.acceptor.connections().is_open(self.number) => Step::Done,
            Stage::New { reader, peer, .. } => match reader.read() {
                Ok(ReadOutcome::Frame(header)) => {
                    let message = Message::decode(header.kind, reader.body());
                    message.map_or(Step::Done, |message| self.introduced(message))
                }
                Ok(ReadOutcome::Pending) => {
                    self.acceptor.close_overdue();
                    Step::Quiet
                }
                // A stranger is dropped and does not disturb the migration.
                Err(error) => {
                    self.acceptor.refused(peer, &error.to_string());
                    Step::Done
                }
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

    /// The first message says what the connection is for.
    fn introduced(&mut self, message: Message) -> Step {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let Stage::New {
            tx,
            reader,
            peer,
            one_sided,
        } = stage
        else {
            return Step::Done;
        };
        let (acceptor, shared) = (&self.acceptor, &self.acceptor.shared);
        match message {
            Message::Hello(ref hello) if acceptor.source.get().is_none() => {
                if let Some(refuse) = acceptor.refusal(&peer, hello) {
                    // It may be gone already.
                    let _ = FrameWriter::new(tx).write(refuse.kind(), &refuse.encode());
                    return Step::Done;
                }
                // Another one may be as fast.
                let binding = peer.binding().cloned();
                if !self.is_known() || acceptor.source.set(binding).is_err() {
                    return Step::Done;
                }
                let mut control = acceptor.read_control(tx, reader);
                if let Err(error) = control.take(message) {
                    acceptor.control_failed(&control, error);
                    return Step::Done;
                }
                self.stage = Stage::Control(control);
            }
            Message::Reattach(Reattach { session, proof })
                if acceptor.is_of_source(&peer, session, Opening::Reattach, proof.as_ref())
                    && shared.look(|target| target.accepts_reattach(session))
                    && self.is_known() =>
            {
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
            Message::Join(Join {
                session,
                channel,
                proof,
            }) if acceptor.is_of_source(&peer, session, Opening::Join(channel), proof.as_ref())
                && self.is_known() =>
            {
                if let Err(error) = shared.with(|target| target.join(channel)) {
                    shared.fail(error);
                    return Step::Done;
                }
                let is_one_sided = one_sided.is_some();
                let mut memory = Arc::clone(&acceptor.memory);
                if let Some(connection) = one_sided {
                    // The memory has been cleared by now.
                    if let Err(error) = acceptor.fences.expose(connection, Arc::clone(&memory)) {
                        shared.fail(error);
                        return Step::Done;
                    }
                    memory = Arc::new(InPlaceMemory(memory));
                }
                let base_pages = Arc::clone(&acceptor.base_pages);
                let shared = Arc::clone(shared);
                let mut data = TargetChannel::new(shared, memory, base_pages, channel, reader);
                if is_one_sided {
                    data = data.one_sided();
                }
                self.stage = Stage::Data(Box::new(data));
            }
            message => {
                let why = format!("{:?} does not belong to the migration", message.kind());
                acceptor.refused(&peer, &why);
                return Step::Done;
            }
        }
        Step::Worked
    }

    /// It belongs to the migration, unless it was closed meanwhile.
    fn is_known(&self) -> bool {
        self.acceptor.connections().known(self.number)
    }
}

impl Drop for TargetWorker {
    fn drop(&mut self) {
        if !self.acceptor.shared.look(Target::is_over) {
            self.acceptor.connections().close(self.number);
        }
    }
}
