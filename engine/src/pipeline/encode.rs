//! Turns a batch of pages into the body of a frame.
//!
//! Each page is copied once, into a buffer of a frame's size, and only the copy is looked at
//! and sent: the guest may write the page meanwhile, which marks it dirty again.

use crate::codec::is_zero;
use crate::memory::{MemoryError, ReadPages};
use crate::migration::{Batch, SentFrame};
use crate::units::{ByteCount, PAGE_BYTES, PageRange};
use crate::wire::{Encoding, MAX_FRAME_PAGES, PagesBuilder};

/// A frame's worth of buffers, allocated once.
#[derive(Debug)]
pub(super) struct PageEncoder {
    builder: PagesBuilder,
    /// Raw pages, one after the other.
    data: Vec<u8>,
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
    pub(super) fn new() -> Self {
        Self {
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
        let mut kept = 0;
        let mut frame = SentFrame {
            bytes: ByteCount(0),
            zero: 0,
            raw: 0,
        };
        for run in &batch.runs {
            let read_at = kept;
            memory.read(*run, &mut self.data[read_at..read_at + run.len_bytes()])?;
            for (index, page) in run.indices().enumerate() {
                let at = read_at + index * PAGE_BYTES;
                let range = PageRange::new(page, 1);
                if is_zero(&self.data[at..at + PAGE_BYTES]) {
                    self.builder.add(range, Encoding::Zero);
                    frame.zero += 1;
                    continue;
                }
                if at != kept {
                    self.data.copy_within(at..at + PAGE_BYTES, kept);
                }
                self.builder.add(range, Encoding::Raw);
                kept += PAGE_BYTES;
                frame.raw += 1;
            }
        }
        Ok(Encoded {
            head: self.builder.finish(),
            data: &self.data[..kept],
            frame,
        })
    }
}
