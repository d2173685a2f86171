//! Puts the pages of a frame into the target's memory.

use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use super::dedup::DedupReader;
use crate::codec::block::{BlockDecoder, MAX_BLOCK_PAGES};
use crate::codec::xbzrle;
use crate::codec::{BlockFormat, SAME_FILLED_BYTES, SameFilled};
use crate::memory::{GuestMemory, PageBuffer};
use crate::migration::{MigrationError, TargetStages};
use crate::pipeline::clock::Clock;
use crate::units::{Instant, PAGE_BYTES, PageRange};
use crate::wire::{Encoding, PageRun, PagesBody};

/// Most pages that are read, changed by their deltas and written together, with one call of the
/// kernel for neighbours: few enough to stay in the caches.
const BATCH_PAGES: usize = 16;

/// Decodes and places for one channel, in buffers that are allocated once.
pub(in crate::pipeline) struct Placer {
    memory: Arc<dyn GuestMemory>,
    /// Whether the transport may have placed pages before their frame comes.
    is_one_sided: bool,
    /// What references are found with, if there may be any.
    dedup: Option<DedupReader>,
    decoder: BlockDecoder,
    /// The block under way, or what fills pages, or the pages that deltas are applied to.
    block: PageBuffer,
    /// Where the pages of the next run of the block are.
    block_at: usize,
    /// Since when the stage that is worked for now does so.
    since: Instant,
}

impl std::fmt::Debug for Placer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placer").finish_non_exhaustive()
    }
}

impl Placer {
    /// Places in `memory`.
    pub(in crate::pipeline) fn new(
        memory: Arc<dyn GuestMemory>,
        dedup: Option<DedupReader>,
    ) -> Self {
        Self {
            is_one_sided: false,
            dedup,
            memory,
            decoder: BlockDecoder::new(),
            block: PageBuffer::new(MAX_BLOCK_PAGES),
            block_at: 0,
            since: Instant::default(),
        }
    }

    /// The transport places pages by itself.
    pub(super) fn expect_placed(&mut self) {
        self.is_one_sided = true;
    }

    /// Places the pages of a checked frame; says what its stages took. Adds to `missing` those
    /// that are not where their references say.
    ///
    /// # Errors
    /// When memory cannot be read or written, or what is packed in a run is malformed.
    pub(in crate::pipeline) fn place(
        &mut self,
        body: &PagesBody<'_>,
        clock: &dyn Clock,
        missing: &mut Vec<PageRange>,
    ) -> Result<TargetStages, MigrationError> {
        let mut stages = TargetStages::default();
        self.since = clock.now();
        let mut runs = body.runs().peekable();
        while let Some(run) = runs.next() {
            let range = run.range;
            match run.encoding {
                Encoding::Zero => self.memory.write_zeros(range)?,
                Encoding::Raw => self.memory.write(range.first, run.data)?,
                Encoding::SameFilled => self.same_filled(range, run.data)?,
                Encoding::Delta => self.apply(run, &mut runs, &mut stages, clock)?,
                Encoding::Lz4 => self.unpack(BlockFormat::Lz4, &run, &mut stages, clock)?,
                Encoding::Zstd => self.unpack(BlockFormat::Zstd, &run, &mut stages, clock)?,
                Encoding::More => self.place_more(range)?,
                Encoding::Placed if self.is_one_sided => {}
                Encoding::Placed => {
                    let what = "pages that the transport has placed, which it cannot";
                    return Err(MigrationError::PeerMisbehaved(what.into()));
                }
                Encoding::Reference => {
                    let dedup = self.dedup.as_mut();
                    let found = dedup.map(|own| own.find(&run, &*self.memory));
                    match found.transpose()?.flatten() {
                        Some(pages) => self.memory.write(range.first, pages)?,
                        None => missing.push(range),
                    }
                }
            }
            stages.place.busy += self.lap(clock);
        }
        Ok(stages)
    }

    /// Applies the delta of `first`, and with it those of the runs that follow; places their pages.
    ///
    /// A page comes once in a round, so none of these needs what another makes.
    fn apply<'a>(
        &mut self,
        first: PageRun<'a>,
        runs: &mut Peekable<impl Iterator<Item = PageRun<'a>>>,
        stages: &mut TargetStages,
        clock: &dyn Clock,
    ) -> Result<(), MigrationError> {
        let mut batch = [first; BATCH_PAGES];
        let mut count = 1;
        while count < BATCH_PAGES
            && let Some(run) = runs.next_if(|run| run.encoding == Encoding::Delta)
        {
            batch[count] = run;
            count += 1;
        }
        let batch = &batch[..count];
        let mut room = &mut self.block[..];
        for range in neighbours(batch) {
            let (pages, rest) = room.split_at_mut(range.len_bytes());
            // The round's barrier: the pages are as the round before left them.
            self.memory.read(range, pages)?;
            room = rest;
        }
        let pages = self.block.chunks_exact_mut(PAGE_BYTES);
        for (run, page) in batch.iter().zip(pages) {
            xbzrle::decode(run.data, page).map_err(|error| malformed(run, &error))?;
        }
        stages.decode.busy += self.lap(clock);
        self.block_at = 0;
        neighbours(batch).try_for_each(|range| self.place_more(range))
    }

    /// Unpacks a block and places the pages of its first run.
    fn unpack(
        &mut self,
        format: BlockFormat,
        run: &PageRun<'_>,
        stages: &mut TargetStages,
        clock: &dyn Clock,
    ) -> Result<(), MigrationError> {
        let pages = &mut self.block[..PageRange::new(0, run.block.0).len_bytes()];
        self.decoder
            .decode(format, run.data, pages)
            .map_err(|error| malformed(run, &error))?;
        stages.decode.busy += self.lap(clock);
        self.block_at = 0;
        self.place_more(run.range)
    }

    /// Places the next pages of the block. Whoever filled it has made sure that it has them.
    fn place_more(&mut self, range: PageRange) -> Result<(), MigrationError> {
        let end = self.block_at + range.len_bytes();
        self.memory
            .write(range.first, &self.block[self.block_at..end])?;
        self.block_at = end;
        Ok(())
    }

    /// Fills pages with one word.
    fn same_filled(&mut self, range: PageRange, word: &[u8]) -> Result<(), MigrationError> {
        let mut fill = SameFilled([0; SAME_FILLED_BYTES]);
        fill.0.copy_from_slice(word);
        let most = MAX_BLOCK_PAGES as u64;
        fill.write(&mut self.block[..range.len_bytes().min(MAX_BLOCK_PAGES * PAGE_BYTES)]);
        for first in range.indices().step_by(MAX_BLOCK_PAGES) {
            let part = PageRange::new(first, (range.end() - first).min(most));
            self.memory
                .write(part.first, &self.block[..part.len_bytes()])?;
        }
        Ok(())
    }

    /// The time since it was asked last.
    fn lap(&mut self, clock: &dyn Clock) -> Duration {
        let now = clock.now();
        now.since(std::mem::replace(&mut self.since, now))
    }
}

/// The pages of `batch`, each by itself, as runs of pages that go on where the one before ends.
fn neighbours(batch: &[PageRun<'_>]) -> impl Iterator<Item = PageRange> {
    let groups = batch.chunk_by(|run, next| run.range.end() == next.range.first.0);
    groups.map(|group| PageRange::new(group[0].range.first.0, group.len() as u64))
}

fn malformed(run: &PageRun<'_>, error: &dyn std::error::Error) -> MigrationError {
    let PageRange { first, count } = run.range;
    MigrationError::PeerMisbehaved(format!(
        "pages {} to {}: {error}",
        first.0,
        first.0 + count.0 - 1
    ))
}
