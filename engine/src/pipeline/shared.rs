//! A machine behind a lock, and the control connection that its messages leave by.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::clock::Clock;
use crate::guest::StateSender;
use crate::migration::{MigrationError, Source, Target};
use crate::transport::SendHalf;
use crate::units::{ByteCount, Instant};
use crate::wire::{FrameWriter, Message, StateChunk};

/// What both machines have in common.
pub trait Machine: Send {
    /// Takes a message of the control connection.
    ///
    /// # Errors
    /// When it ends the migration.
    fn handle_message(
        &mut self,
        now: Instant,
        message: Message,
    ) -> Result<Option<StateChunk>, MigrationError>;

    /// The other side is known to be there.
    fn heard(&mut self, now: Instant);

    /// A message to send.
    fn poll_message(&mut self) -> Option<Message>;

    /// Ends the migration.
    fn fail(&mut self, error: MigrationError);

    /// Whether there is nothing more to do.
    fn is_over(&self) -> bool;
}

/// The machines' own methods, of the same names.
macro_rules! machine {
    ($machine:ty) => {
        impl Machine for $machine {
            fn handle_message(
                &mut self,
                now: Instant,
                message: Message,
            ) -> Result<Option<StateChunk>, MigrationError> {
                Self::handle_message(self, now, message)
            }

            fn heard(&mut self, now: Instant) {
                Self::heard(self, now);
            }

            fn poll_message(&mut self) -> Option<Message> {
                Self::poll_message(self)
            }

            fn fail(&mut self, error: MigrationError) {
                Self::fail(self, error);
            }

            fn is_over(&self) -> bool {
                Self::is_over(self)
            }
        }
    };
}

machine!(Source);
machine!(Target);

/// A machine that several workers use.
///
/// Who waits for a change says which one it has seen last, so a change between a look and the
/// wait is not missed: take [`version`](Self::version) before a step, and hand it to
/// [`wait_past`](Self::wait_past) after a step that found nothing to do. Such a step must not
/// count as a change itself: it uses [`try_with`](Self::try_with).
pub struct Shared<M> {
    guarded: Mutex<Guarded<M>>,
    changed: Condvar,
    control: ControlWriter,
    clock: Arc<dyn Clock>,
}

impl<M> std::fmt::Debug for Shared<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<M: Machine> Shared<M> {
    /// Shares `machine`; it has no control connection yet.
    pub fn new(machine: M, clock: Arc<dyn Clock>) -> Self {
        Self {
            guarded: Mutex::new(Guarded {
                machine,
                version: 0,
            }),
            changed: Condvar::new(),
            control: ControlWriter::default(),
            clock,
        }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The clock itself.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Uses the machine, then wakes everybody who waits for a change of it.
    pub fn with<R>(&self, act: impl FnOnce(&mut M) -> R) -> R {
        self.try_with(|machine| (act(machine), true))
    }

    /// Uses the machine; `act` also says whether anything changed that others may wait for.
    pub fn try_with<R>(&self, act: impl FnOnce(&mut M) -> (R, bool)) -> R {
        let mut guarded = self.lock();
        let (result, changed) = act(&mut guarded.machine);
        if changed {
            guarded.version += 1;
            drop(guarded);
            self.changed.notify_all();
        }
        result
    }

    /// Looks at the machine without changing it.
    pub fn look<R>(&self, act: impl FnOnce(&M) -> R) -> R {
        act(&self.lock().machine)
    }

    /// Ends the migration with `error`.
    pub fn fail(&self, error: MigrationError) {
        self.with(|machine| machine.fail(error));
    }

    /// Wakes everybody who waits for a change: something beside the machine has changed.
    pub fn wake(&self) {
        self.with(|_| ());
    }

    /// The number of changes so far.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Waits until there were more than `seen` changes, or until `until` has come.
    pub fn wait_past(&self, seen: u64, until: Instant) {
        let mut guarded = self.lock();
        while guarded.version == seen {
            let left = until.since(self.now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(guarded, left);
            guarded = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Where messages of the machine leave.
    pub fn control(&self) -> &ControlWriter {
        &self.control
    }

    /// Sends all messages the machine has ready.
    ///
    /// # Errors
    /// When the control connection is lost.
    pub fn flush_messages(&self) -> io::Result<()> {
        self.control
            .write_all_from(|| self.lock().machine.poll_message())
    }

    fn lock(&self) -> MutexGuard<'_, Guarded<M>> {
        // A worker that panicked has ended the migration for its own reason; the machine's own
        // methods leave no half-made change behind.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Guarded<M> {
    machine: M,
    version: u64,
}

struct ControlStream {
    writer: FrameWriter<Box<dyn SendHalf>>,
    /// Body of a message, allocated once.
    body: Vec<u8>,
}

/// The sending half of the control connection, once there is one.
#[derive(Clone, Default)]
pub struct ControlWriter {
    stream: Arc<Mutex<Option<ControlStream>>>,
    /// How many connections there have been.
    connections: Arc<AtomicU64>,
}

impl std::fmt::Debug for ControlWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlWriter")
    }
}

impl ControlWriter {
    /// Messages leave by `half` from now on.
    pub fn connect(&self, half: Box<dyn SendHalf>) {
        *self.lock() = Some(ControlStream {
            writer: FrameWriter::new(half),
            body: Vec::new(),
        });
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    /// Number of the connection, from 1; 0 before there is one.
    pub fn connection(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the connection is lost or not there.
    pub fn write(&self, message: &Message) -> io::Result<()> {
        self.write_all_from({
            let mut once = Some(message.clone());
            move || once.take()
        })
    }

    /// A sender of device state over this connection, which tells `sent` of the bytes that went.
    pub(super) fn state_sender(
        &self,
        sent: impl Fn(ByteCount) + Send + Sync + 'static,
    ) -> StateSender {
        let writer = self.clone();
        StateSender::new(move |chunk| writer.write(&Message::State(chunk)), sent)
    }

    /// Sends messages as long as `next` gives some. The connection is locked first, so that the
    /// order in which `next` gives them is the order in which they leave.
    fn write_all_from(&self, mut next: impl FnMut() -> Option<Message>) -> io::Result<()> {
        let mut stream = self.lock();
        while let Some(stream) = stream.as_mut()
            && let Some(message) = next()
        {
            message.encode_into(&mut stream.body);
            stream.writer.write(message.kind(), &stream.body)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<ControlStream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
