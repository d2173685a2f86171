//! Reads the control connection and hands its messages to the machine.

use std::io::Read;
use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};

use super::Step;
use super::shared::{Machine, Shared};
use crate::migration::{HEARTBEAT, MigrationError};
use crate::wire::{FrameReader, Message, ReadOutcome, StateChunk};

/// The reader of a control connection.
pub struct ControlReader<M> {
    shared: Arc<Shared<M>>,
    /// Number of the control connection that it reads.
    connection: u64,
    reader: FrameReader<Box<dyn Read + Send>>,
    state: Sender<StateChunk>,
    /// A piece of device state that its queue had no room for.
    held: Option<StateChunk>,
}

impl<M> std::fmt::Debug for ControlReader<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlReader").finish_non_exhaustive()
    }
}

impl<M: Machine> ControlReader<M> {
    /// Reads `reader` on, of the connection that `shared` writes its messages to; device state
    /// goes to `state`.
    pub fn new(
        shared: Arc<Shared<M>>,
        reader: FrameReader<Box<dyn Read + Send>>,
        state: Sender<StateChunk>,
    ) -> Self {
        Self {
            connection: shared.control().connection(),
            shared,
            reader,
            state,
            held: None,
        }
    }

    /// The machine that the messages go to.
    pub fn shared(&self) -> &Arc<Shared<M>> {
        &self.shared
    }

    /// Whether no newer control connection has taken the place of the one it reads. What
    /// happens to an older one says nothing of the migration.
    pub fn is_current(&self) -> bool {
        self.connection == self.shared.control().connection()
    }

    /// Takes one message. Waits only as long as the connection's read does.
    ///
    /// # Errors
    /// When the connection is lost, or a message ends the migration.
    pub fn step(&mut self) -> Result<Step, MigrationError> {
        if let Some(chunk) = self.held.take()
            && !self.queue(chunk)?
        {
            // Not the other side is silent: this one does not listen.
            let now = self.shared.now();
            self.shared.with(|machine| machine.heard(now));
            return Ok(Step::Wait(now.after(HEARTBEAT / 1000)));
        }
        match self.reader.read()? {
            ReadOutcome::Pending => Ok(Step::Quiet),
            ReadOutcome::Frame(header) => {
                let message = Message::decode(header.kind, self.reader.body())?;
                self.take(message)
            }
        }
    }

    /// Handles a message that was read elsewhere: the first one of a connection.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn take(&mut self, message: Message) -> Result<Step, MigrationError> {
        let now = self.shared.now();
        let result = self
            .shared
            .with(|machine| machine.handle_message(now, message));
        // A refusal is both: a message to send, and the end. If it cannot be sent, what the other
        // side said before it went may still be there to be read; the coordinator finds out.
        let _ = self.shared.flush_messages();
        let chunk = result?;
        if let Some(chunk) = chunk {
            self.queue(chunk)?;
        }
        Ok(Step::Worked)
    }

    /// Whether the chunk went into the queue; if not, it is held.
    fn queue(&mut self, chunk: StateChunk) -> Result<bool, MigrationError> {
        match self.state.try_send(chunk) {
            Ok(()) => {
                // The coordinator may be waiting for the guest to have its state.
                self.shared.wake();
                Ok(true)
            }
            Err(TrySendError::Full(chunk)) => {
                self.held = Some(chunk);
                Ok(false)
            }
            Err(TrySendError::Disconnected(_)) => Err(MigrationError::Guest(
                "it takes no more device state".into(),
            )),
        }
    }
}

/// A control connection that cannot be written any more.
pub(super) fn lost(source: std::io::Error) -> MigrationError {
    MigrationError::Link {
        what: "the control connection was lost",
        source,
    }
}
