//! One data channel of the source: take a batch, read, encode, send.

use std::io::{self, Write};
use std::sync::Arc;

use super::Step;
use super::deltas::Deltas;
use super::encode::PageEncoder;
use super::last_word::LastWord;
use super::shared::Shared;
use crate::memory::ReadPages;
use crate::migration::{Batch, HEARTBEAT, MigrationError, SentFrame, Source, Work};
use crate::units::ByteCount;
use crate::wire::{FrameType, FrameWriter, Join, Message};

/// The sending half of a data channel.
pub struct SourceChannel {
    shared: Arc<Shared<Source>>,
    memory: Arc<dyn ReadPages>,
    number: u16,
    writer: FrameWriter<Box<dyn Write + Send>>,
    encoder: PageEncoder,
    batch: Batch,
    last_word: LastWord,
}

impl std::fmt::Debug for SourceChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceChannel")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl SourceChannel {
    /// Opens channel `number` on `tx` by joining the migration.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn open(
        shared: Arc<Shared<Source>>,
        memory: Arc<dyn ReadPages>,
        number: u16,
        tx: Box<dyn Write + Send>,
        deltas: Option<Arc<Deltas>>,
    ) -> Result<Self, MigrationError> {
        let mut writer = FrameWriter::new(tx);
        let session = shared.look(Source::session);
        let join = Message::Join(Join {
            session,
            channel: number,
        });
        writer.write(join.kind(), &[&join.encode()]).map_err(lost)?;
        let (encoder, batch) = (PageEncoder::new(deltas), Batch::default());
        Ok(Self {
            shared,
            memory,
            number,
            writer,
            encoder,
            batch,
            last_word: LastWord::default(),
        })
    }

    /// The machine that the channel serves.
    pub fn shared(&self) -> &Arc<Shared<Source>> {
        &self.shared
    }

    /// Sends one frame, if there is one to send. Waits only for the connection.
    ///
    /// # Errors
    /// When memory cannot be read or the connection is lost.
    pub fn step(&mut self) -> Result<Step, MigrationError> {
        let is_over = self.shared.look(Source::is_over);
        if let Some(step) = self.last_word.step(self.shared.now(), is_over) {
            return step;
        }
        self.work().or_else(|error| match error {
            MigrationError::Link { .. } => Ok(self.last_word.lost(self.shared.now(), error)),
            other => Err(other),
        })
    }

    fn work(&mut self) -> Result<Step, MigrationError> {
        let number = self.number;
        let now = self.shared.now();
        // Others wait only for the end of a round.
        let work = self.shared.try_with(|source| {
            let work = source.next_work(now, number, &mut self.batch);
            let round_ended = matches!(work, Work::RoundEnd(_));
            (work, round_ended)
        });
        let frame = match work {
            Work::Pages => {
                let encoded = self.encoder.encode(&self.batch, &*self.memory)?;
                let bytes = self
                    .writer
                    .write(FrameType::Pages, &[encoded.head, encoded.data])
                    .map_err(lost)?;
                SentFrame {
                    bytes: ByteCount(bytes),
                    ..encoded.frame
                }
            }
            Work::RoundEnd(round) => {
                let message = Message::RoundEnd { round };
                let bytes = self
                    .writer
                    .write(message.kind(), &[&message.encode()])
                    .map_err(lost)?;
                SentFrame {
                    bytes: ByteCount(bytes),
                    ..SentFrame::default()
                }
            }
            Work::Wait => return Ok(Step::Wait(self.shared.now().after(HEARTBEAT / 4))),
            Work::Close => return Ok(Step::Done),
        };
        self.shared
            .try_with(|source| (source.sent(number, frame), false));
        Ok(Step::Worked)
    }
}

fn lost(source: io::Error) -> MigrationError {
    MigrationError::Link {
        what: "a data connection was lost",
        source,
    }
}
