//! Computes the fingerprints of the target's base pages and sends them to the source.
//!
//! Off the data path, in a thread of its own, in the order of the pages, and from the moment the
//! target waits: fingerprints need no source (6 GB/s with the reading of a file in memory). What
//! is taken before one comes is held, 8 bytes a page; then it goes on the control connection in
//! frames small enough not to hold up acknowledgements. Nothing waits for it: the source uses
//! what has arrived. It ends with the last round, which has no use for it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::base_pages::BasePages;
use crate::codec::dedup::fingerprint;
use crate::codec::is_zero;
use crate::memory::{PageBitmap, PageBuffer};
use crate::migration::{FingerprintDemand, HEARTBEAT, Target};
use crate::pipeline::Step;
use crate::pipeline::shared::Shared;
use crate::units::{ByteCount, PAGE_BYTES};
use crate::wire::{FingerprintChunk, MAX_FINGERPRINTS, Message};

/// Pages that are read at a time.
const READ_PAGES: usize = 32;

/// Most pages told of, so that what is held is bounded: 256 GiB of them, and 512 MiB.
pub(super) const MOST_PAGES: u64 = 1 << 26;

/// Sends the source the fingerprints of the base pages.
pub struct FingerprintWorker {
    shared: Arc<Shared<Target>>,
    base_pages: Arc<BasePages>,
    /// Pages to look at; found out by the first step.
    populated: Option<PageBitmap>,
    /// Page to go on with.
    next: u64,
    /// Taken, and not sent.
    chunks: VecDeque<FingerprintChunk>,
    buffer: PageBuffer,
}

impl std::fmt::Debug for FingerprintWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FingerprintWorker")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl FingerprintWorker {
    /// A worker for the base pages of one migration.
    pub fn new(shared: Arc<Shared<Target>>, base_pages: Arc<BasePages>) -> Self {
        Self {
            shared,
            base_pages,
            populated: None,
            next: 0,
            chunks: VecDeque::new(),
            buffer: PageBuffer::new(READ_PAGES),
        }
    }

    /// Most memory it takes for that many pages.
    pub(super) fn footprint(pages: u64) -> ByteCount {
        let pages = pages.min(MOST_PAGES);
        ByteCount(pages * 8 + pages.div_ceil(8) + PageBuffer::footprint(READ_PAGES).0)
    }

    /// Takes the fingerprints of some pages, or sends some. Waits only for the connection.
    pub fn step(&mut self) -> Step {
        let wanted = match self.shared.look(Target::fingerprint_demand) {
            FingerprintDemand::None => return Step::Done,
            FingerprintDemand::NotYet => None,
            FingerprintDemand::First(pages) => Some(pages),
        };
        if let Some(wanted) = wanted
            && let Some(chunk) = self.chunks.pop_front()
        {
            return self.send(chunk, wanted);
        }
        if self.take_some(wanted.unwrap_or(MOST_PAGES)) {
            Step::Worked
        } else if wanted.is_some() {
            Step::Done
        } else {
            Step::Wait(self.shared.now().after(HEARTBEAT / 4))
        }
    }

    fn send(&self, mut chunk: FingerprintChunk, wanted: u64) -> Step {
        let own = usize::try_from(wanted.saturating_sub(chunk.first)).unwrap_or(usize::MAX);
        chunk.fingerprints.truncate(own);
        if chunk.fingerprints.is_empty() {
            return Step::Worked;
        }
        // The consent goes first. A connection that is lost is found out by others.
        let sent = self
            .shared
            .flush_messages()
            .and_then(|()| self.shared.control().write(&Message::Fingerprints(chunk)));
        match sent {
            Ok(()) => Step::Worked,
            Err(_) => Step::Done,
        }
    }

    /// Takes the fingerprints of the next pages, if there are any before `end`.
    fn take_some(&mut self, end: u64) -> bool {
        let base_pages = &self.base_pages;
        let populated = self.populated.get_or_insert_with(|| base_pages.populated());
        let Some(run) = populated.next_run(self.next, MAX_FINGERPRINTS as u64) else {
            return false;
        };
        let first = run.first.0;
        let count = run.end().min(end).saturating_sub(first);
        if count == 0 {
            return false;
        }
        self.next = first + count;
        let mut fingerprints = Vec::with_capacity(count as usize);
        let mut at = first;
        while at < self.next {
            let piece = (self.next - at).min(READ_PAGES as u64);
            let pages = &mut self.buffer[..piece as usize * PAGE_BYTES];
            if self.base_pages.read(at, pages) {
                fingerprints.extend(pages.chunks_exact(PAGE_BYTES).map(|page| {
                    if is_zero(page) {
                        0
                    } else {
                        fingerprint(self.base_pages.nonce(), page)
                    }
                }));
            } else {
                fingerprints.resize(fingerprints.len() + piece as usize, 0);
            }
            at += piece;
        }
        if fingerprints.iter().any(|fingerprint| *fingerprint != 0) {
            self.chunks.push_back(FingerprintChunk {
                first,
                fingerprints,
            });
        }
        true
    }
}
