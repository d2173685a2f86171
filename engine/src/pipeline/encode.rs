//! Turns a batch of pages into the body of a frame.
//!
//! Each page is copied once, into a buffer of a frame's size, and only the copy is looked at
//! and sent: the guest may write the page meanwhile, which marks it dirty again.

use std::sync::Arc;

use super::deltas::Deltas;
use crate::codec::cache::Outcome;
use crate::codec::is_zero;
use crate::memory::{MemoryError, ReadPages};
use crate::migration::{Batch, SentFrame};
use crate::units::{PAGE_BYTES, PageCount, PageIndex, PageRange};
use crate::wire::{Encoding, MAX_FRAME_PAGES, PagesBuilder};

/// A frame's worth of buffers, allocated once.
#[derive(Debug)]
pub(super) struct PageEncoder {
    builder: PagesBuilder,
    /// Data of the pages, one after the other.
    data: Vec<u8>,
    /// One delta.
    delta: Box<[u8; PAGE_BYTES]>,
    deltas: Option<Arc<Deltas>>,
}

/// The parts of a body, and what they hold.
#[derive(Debug)]
pub(super) struct Encoded<'a> {
    /// Round and runs.
    pub(super) head: &'a [u8],
    /// Data of the runs.
    pub(super) data: &'a [u8],
    /// Counts; the bytes on the wire are not known yet.
    pub(super) frame: SentFrame,
}

impl PageEncoder {
    /// An encoder that sends changed pages whole, or by `deltas`.
    pub(super) fn new(deltas: Option<Arc<Deltas>>) -> Self {
        Self {
            delta: Box::new([0; PAGE_BYTES]),
            deltas,
            builder: PagesBuilder::default(),
            data: vec![0; MAX_FRAME_PAGES * PAGE_BYTES],
        }
    }

    /// Reads the pages of `batch` and encodes them.
    pub(super) fn encode(
        &mut self,
        batch: &Batch,
        memory: &dyn ReadPages,
    ) -> Result<Encoded<'_>, MemoryError> {
        self.builder.begin(batch.round);
        if let Some(deltas) = &self.deltas {
            deltas.enter_round(batch.round);
        }
        let mut kept = 0;
        let mut frame = SentFrame::default();
        for run in &batch.runs {
            let read_at = kept;
            memory.read(*run, &mut self.data[read_at..read_at + run.len_bytes()])?;
            for (index, page) in run.indices().enumerate() {
                let at = read_at + index * PAGE_BYTES;
                kept = self.encode_page(batch.round, PageIndex(page), at, kept, &mut frame);
            }
        }
        Ok(Encoded {
            head: self.builder.finish(),
            data: &self.data[..kept],
            frame,
        })
    }

    /// Encodes the page whose content is at `at`; its data goes to `kept`, which is not later.
    /// Returns where the data of the next page goes.
    fn encode_page(
        &mut self,
        round: u32,
        page: PageIndex,
        at: usize,
        kept: usize,
        frame: &mut SentFrame,
    ) -> usize {
        let range = PageRange {
            first: page,
            count: PageCount(1),
        };
        let content = &self.data[at..at + PAGE_BYTES];
        if is_zero(content) {
            self.builder.add(range, Encoding::Zero);
            frame.zero += 1;
            if let Some(deltas) = &self.deltas {
                deltas.zero(round, page);
            }
            return kept;
        }
        let content: Option<&[u8; PAGE_BYTES]> = content.first_chunk();
        let outcome = match (&self.deltas, content) {
            (Some(deltas), Some(content)) => deltas.encode(round, page, content, &mut self.delta),
            _ => Outcome::Whole,
        };
        match outcome {
            Outcome::Unchanged => {
                frame.unchanged += 1;
                kept
            }
            Outcome::Delta(length) => {
                self.data[kept..kept + length].copy_from_slice(&self.delta[..length]);
                self.builder.add_delta(page, length);
                frame.delta += 1;
                kept + length
            }
            Outcome::Whole => {
                if at != kept {
                    self.data.copy_within(at..at + PAGE_BYTES, kept);
                }
                self.builder.add(range, Encoding::Raw);
                frame.raw += 1;
                kept + PAGE_BYTES
            }
        }
    }
}
