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
    /// Reads `reader` on; device state goes to `state`.
    pub fn new(
        shared: Arc<Shared<M>>,
        reader: FrameReader<Box<dyn Read + Send>>,
        state: Sender<StateChunk>,
    ) -> Self {
        Self {
            shared,
            reader,
            state,
            held: None,
        }
    }

    /// Takes one message. Waits only as long as the connection's read does.
    ///
    /// # Errors
    /// When the connection is lost, or a message ends the migration.
    pub fn step(&mut self) -> Result<Step, MigrationError> {
        if let Some(chunk) = self.held.take()
            && !self.queue(chunk)?
        {
            return Ok(Step::Wait(self.shared.now().after(HEARTBEAT / 1000)));
        }
        match self.reader.read()? {
            ReadOutcome::Pending => {
                self.heartbeat()?;
                Ok(Step::Wait(self.shared.now().after(HEARTBEAT / 4)))
            }
            ReadOutcome::Frame(header) => {
                let message = Message::decode(header.kind, self.reader.body())?;
                self.take(message)
            }
        }
    }

    /// Tells the other side that this one lives. The coordinator does that as well, but not
    /// while it is at something long: the digest of a large memory takes more time than a
    /// silence may last.
    fn heartbeat(&self) -> Result<(), MigrationError> {
        let now = self.shared.now();
        // No change that anybody waits for.
        self.shared
            .try_with(|machine| (machine.heartbeat(now), false));
        self.shared.flush_messages().map_err(lost)
    }

    /// Handles a message that was read elsewhere: the first one of a connection.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn take(&mut self, message: Message) -> Result<Step, MigrationError> {
        let now = self.shared.now();
        let chunk = self
            .shared
            .with(|machine| machine.handle_message(now, message))?;
        self.shared.flush_messages().map_err(lost)?;
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
