//! Encodes a batch whose pages the transport places by itself.

use std::time::Duration;

use super::{PageEncoder, PlacedRun};
use crate::memory::{MemoryError, ReadPages};
use crate::migration::{Batch, SentFrame};
use crate::pipeline::clock::Clock;
use crate::units::{PAGE_BYTES, PageCount, PageIndex, PageRange};
use crate::wire::FrameBuffer;

impl PageEncoder {
    /// As [`encode`](Self::encode), for pages that are sent as they are: to have them placed costs less
    /// than to pack them. They stay where they were read to, in `pages`, and `placed` gets their places.
    /// The body of `frame` names them, and carries all others.
    ///
    /// What is placed is the copy that was looked at, and not what the guest has made of the page
    /// meanwhile: only so is it known what the target has, which deltas and digests rest on.
    pub(in crate::pipeline::source) fn encode_placing(
        &mut self,
        batch: &Batch,
        memory: &dyn ReadPages,
        clock: &dyn Clock,
        pages: &mut FrameBuffer,
        frame: &mut FrameBuffer,
        placed: &mut Vec<PlacedRun>,
    ) -> Result<SentFrame, MemoryError> {
        let data = pages.pages();
        placed.clear();
        self.builder.begin(batch.round);
        if let Some(dedup_encoder) = &mut self.dedup_encoder {
            dedup_encoder.begin(batch);
        }
        let mut sent = SentFrame::default();
        let (mut reading, mut encoding) = (Duration::ZERO, Duration::ZERO);
        let mut begun = clock.now();
        let mut read_at = 0;
        for run in &batch.runs {
            memory.read(*run, &mut data[read_at..read_at + run.len_bytes()])?;
            let read = clock.now();
            for page in run.indices().map(PageIndex) {
                self.begin_page(batch, page);
                if self.encode_small(batch.round, page, &data[read_at..], &mut sent) {
                    self.close_reference(data, &mut sent);
                } else if !self.add_reference(batch, page, (data, read_at), &mut sent) {
                    self.builder.add_placed(page);
                    add(placed, page, read_at);
                    sent.raw += 1;
                    sent.placed += 1;
                    sent.encoded.raw += PAGE_BYTES as u64;
                }
                read_at += PAGE_BYTES;
            }
            self.close_reference(data, &mut sent);
            reading += read.since(begun);
            begun = clock.now();
            encoding += begun.since(read);
        }
        sent.stages.read.busy = reading;
        sent.stages.encode.busy = encoding;
        let (head, own) = self.builder.finish();
        frame.set_body(head, 0, own);
        Ok(sent)
    }
}

/// Adds a page whose content is at `at`. Neighbours are placed together.
fn add(placed: &mut Vec<PlacedRun>, page: PageIndex, at: usize) {
    match placed.last_mut() {
        Some((range, start)) if range.end() == page.0 && *start + range.len_bytes() == at => {
            range.count += PageCount(1);
        }
        _ => placed.push((PageRange::new(page.0, 1), at)),
    }
}
