//! Turns a batch of pages into the body of a frame.
//!
//! A page goes out as the first of these that it can: a mark that it is zero, the word that
//! fills it, its delta, a [reference](dedup) to what the target has, or together with others in
//! a [block](packer) that is packed or raw.
//!
//! Each page is copied once, into a buffer of a frame's size, and only the copy is looked at
//! and sent: the guest may write the page meanwhile, which marks it dirty again. Pages that go
//! raw are sent from there.

mod dedup;
mod dedup_gate;
mod gather;
mod packer;
mod placing;

use std::sync::Arc;
use std::time::Duration;

use super::deltas::Deltas;
use crate::codec::cache::Outcome;
use crate::codec::{BlockFormat, SameFilled, is_zero};
use crate::memory::{MemoryError, ReadPages};
use crate::migration::{Batch, SentFrame};
use crate::pipeline::clock::Clock;
use crate::units::{PAGE_BYTES, PageIndex, PageRange};
use crate::wire::{Encoding, Encodings, FrameBuffer, PagesBuilder};
pub(super) use dedup::DedupEncoder;
use gather::Gathered;
pub(super) use packer::Packer;

/// The round in which every page comes up for the first time.
const FIRST_ROUND: u32 = 1;

/// Longest delta where pages can be packed as well: what saves less is better packed.
const WORTHY_DELTA: usize = PAGE_BYTES / 2;

/// Pages that the transport places by itself, and where their content is.
pub(super) type PlacedRun = (PageRange, usize);

/// A frame's worth of buffers, allocated once.
#[derive(Debug)]
pub(super) struct PageEncoder {
    builder: PagesBuilder,
    block: Gathered,
    packer: Packer,
    /// One delta.
    delta: Box<[u8; PAGE_BYTES]>,
    deltas: Option<Arc<Deltas>>,
    /// Whether pages of the first round are worth keeping to make deltas against.
    keeps_first: bool,
    /// Finds what the target has.
    dedup_encoder: Option<DedupEncoder>,
    /// Whether the target knows pages that are filled with a word.
    sends_fills: bool,
}

impl PageEncoder {
    /// An encoder for a target that reads the encodings `reads`. Changed pages go by `deltas`
    /// where that is shorter, and other ones through `packer`.
    pub(super) fn new(deltas: Option<Arc<Deltas>>, packer: Packer, reads: Encodings) -> Self {
        Self {
            builder: PagesBuilder::default(),
            block: Gathered::default(),
            packer,
            delta: Box::new([0; PAGE_BYTES]),
            deltas,
            keeps_first: false,
            dedup_encoder: None,
            sends_fills: reads.contains(Encoding::SameFilled),
        }
    }

    /// The same, for a target that takes references.
    pub(super) fn with_dedup(mut self, dedup_encoder: Option<DedupEncoder>) -> Self {
        self.dedup_encoder = dedup_encoder;
        self
    }

    /// Reads the pages of `batch` and encodes them to the body of `buffer`. What is returned counts
    /// them; the bytes on the wire are not known yet.
    pub(super) fn encode(
        &mut self,
        batch: &Batch,
        memory: &dyn ReadPages,
        clock: &dyn Clock,
        buffer: &mut FrameBuffer,
    ) -> Result<SentFrame, MemoryError> {
        // Pages as they are read; what is sent of them is moved to the front.
        let data = buffer.pages();
        self.builder.begin(batch.round);
        self.keeps_first = self.packer.page_is_dear();
        if let Some(deltas) = &self.deltas {
            deltas.enter_round(batch.round);
        }
        if let Some(dedup_encoder) = &mut self.dedup_encoder {
            dedup_encoder.begin(batch);
        }
        let mut kept = 0;
        let mut frame = SentFrame::default();
        let (mut reading, mut encoding) = (Duration::ZERO, Duration::ZERO);
        let mut begun = clock.now();
        for run in &batch.runs {
            let read_at = self.block.end().max(kept);
            memory.read(*run, &mut data[read_at..read_at + run.len_bytes()])?;
            let read = clock.now();
            for (index, page) in run.indices().enumerate() {
                let at = read_at + index * PAGE_BYTES;
                let page = PageIndex(page);
                self.begin_page(batch, page);
                if self.encode_small(batch.round, page, &data[at..], &mut frame) {
                    self.close_reference(data, &mut frame);
                } else if !self.add_reference(batch, page, (data, at), &mut frame) {
                    self.block.add(page, at, data);
                }
                if self.block.is_full() {
                    kept = self.flush(kept, data, clock, &mut frame);
                }
            }
            // The next pages are read to where these are.
            self.close_reference(data, &mut frame);
            reading += read.since(begun);
            begun = clock.now();
            encoding += begun.since(read);
        }
        if !self.block.is_empty() {
            kept = self.flush(kept, data, clock, &mut frame);
        }
        encoding += clock.now().since(begun);
        frame.stages.read.busy = reading;
        frame.stages.encode.busy = encoding;
        let (head, own) = self.builder.finish();
        buffer.set_body(head, kept, own);
        Ok(frame)
    }

    /// The frame that was encoded last is sent, which took so long with its reading and encoding.
    pub(super) fn sent(&mut self, time: Duration) {
        if let Some(dedup_encoder) = &mut self.dedup_encoder {
            dedup_encoder.sent(time);
        }
    }

    /// The part that chooses and packs.
    pub(super) fn packer(&mut self) -> &mut Packer {
        &mut self.packer
    }

    /// A page is about to be sent, in whatever way.
    fn begin_page(&self, batch: &Batch, page: PageIndex) {
        if let Some(deltas) = &self.deltas
            && batch.whole.binary_search(&page).is_ok()
        {
            // The target has not got what was sent before.
            deltas.forget(page);
        }
    }

    /// Sends the page whose content is at `at` of `data` as a reference if the target has it;
    /// whether it has.
    fn add_reference(
        &mut self,
        batch: &Batch,
        page: PageIndex,
        (data, at): (&[u8], usize),
        frame: &mut SentFrame,
    ) -> bool {
        let (dedup_encoder, builder) = (self.dedup_encoder.as_mut(), &mut self.builder);
        dedup_encoder
            .is_some_and(|dedup_encoder| dedup_encoder.add(batch, page, at, data, builder, frame))
    }

    fn close_reference(&mut self, data: &[u8], frame: &mut SentFrame) {
        if let Some(dedup_encoder) = &mut self.dedup_encoder {
            dedup_encoder.close(data, &mut self.builder, frame);
        }
    }

    /// Encodes the page whose content is at the beginning of `data` if that takes few bytes, or
    /// none; whether it did.
    fn encode_small(
        &mut self,
        round: u32,
        page: PageIndex,
        data: &[u8],
        frame: &mut SentFrame,
    ) -> bool {
        let Some(content) = data.first_chunk::<PAGE_BYTES>() else {
            return false;
        };
        let fill = if is_zero(content) {
            self.builder.add_zero(page);
            frame.zero += 1;
            true
        } else if self.sends_fills
            && let Some(fill) = SameFilled::of(content)
        {
            frame.encoded.same_filled += self.builder.add_same_filled(page, fill) as u64;
            frame.same_filled += 1;
            true
        } else {
            false
        };
        let Some(deltas) = &self.deltas else {
            return fill;
        };
        if round <= FIRST_ROUND {
            if self.keeps_first {
                deltas.put_first(page, content);
            }
            return fill;
        }
        if fill {
            deltas.put(page, content);
            return true;
        }
        let room = if self.packer.packs() {
            WORTHY_DELTA
        } else {
            PAGE_BYTES
        };
        match deltas.encode(page, content, &mut self.delta[..room]) {
            Outcome::Unchanged => frame.unchanged += 1,
            Outcome::Delta(length) => {
                self.builder.add_delta(page, &self.delta[..length]);
                frame.delta += 1;
                frame.encoded.delta += length as u64;
            }
            Outcome::Whole => return false,
        }
        true
    }

    /// Packs the block under way, or leaves it raw; its data goes to `kept` of `data`, which is
    /// not later.
    /// Returns where that of the next block goes.
    fn flush(
        &mut self,
        kept: usize,
        data: &mut [u8],
        clock: &dyn Clock,
        frame: &mut SentFrame,
    ) -> usize {
        let pages = self.block.place();
        let count = (pages.len() / PAGE_BYTES) as u64;
        let end = match self.packer.pack(&data[pages.clone()], clock) {
            Some((format, packed)) => {
                let end = kept + packed.len();
                data[kept..end].copy_from_slice(packed);
                self.builder
                    .add_block(format, self.block.runs(), end - kept);
                let (pages, bytes) = match format {
                    BlockFormat::Lz4 => (&mut frame.lz4, &mut frame.encoded.lz4),
                    BlockFormat::Zstd => (&mut frame.zstd, &mut frame.encoded.zstd),
                };
                *pages += count;
                *bytes += (end - kept) as u64;
                end
            }
            None => {
                let end = kept + pages.len();
                if pages.start != kept {
                    data.copy_within(pages, kept);
                }
                for run in self.block.runs() {
                    self.builder.add_raw(*run);
                }
                frame.raw += count;
                frame.encoded.raw += (end - kept) as u64;
                end
            }
        };
        self.block.clear();
        end
    }
}

#[cfg(test)]
mod tests;
