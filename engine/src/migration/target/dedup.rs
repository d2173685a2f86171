//! Deduplication at the target: the terms, and the pages that turned out to be missing.
//!
//! Invariant: a page that was sent and is not there is missing until it is sent whole, and the
//! source is told before the frame that named it is acknowledged.

use super::Target;
use super::memory::Memory;
use super::types::FingerprintDemand;
use crate::codec::dedup::Secret;
use crate::memory::PageBitmap;
use crate::units::{Instant, PageCount, PageRange};
use crate::wire::{DedupTerms, Encoding, Message, PagesBody};

/// Pages that the source sent and that are not as it thinks.
///
/// Their number is kept, since every frame asks for it: counting them would cost 0.8 ms for a guest
/// of 256 GiB, with all channels waiting.
#[derive(Debug)]
pub(super) struct Missing {
    pages: PageBitmap,
    count: u64,
}

impl Missing {
    pub(super) fn none_of(guest: PageCount) -> Self {
        Self {
            pages: PageBitmap::new(guest),
            count: 0,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn insert(&mut self, run: PageRange) {
        self.count += run.count.0 - self.pages.count_in(run).0;
        self.pages.insert(run);
    }

    fn remove(&mut self, run: PageRange) {
        self.count -= self.pages.count_in(run).0;
        self.pages.remove(run);
    }
}

impl Target {
    /// On which terms references are taken: if this side offers and the source asked.
    pub(super) fn terms(&self) -> Option<DedupTerms> {
        let most = self.hello.as_ref()?.dedup?;
        let offered = self.config.dedup?;
        Some(DedupTerms {
            base_pages: offered.base_pages.min(most),
            ..offered
        })
    }

    /// Makes the identities of this migration's references, if there are any.
    pub fn dedup_secret(&self) -> Option<Secret> {
        let session = self.hello.as_ref()?.session;
        Some(Secret::new(session.0, self.terms()?.nonce))
    }

    /// Whether to send fingerprints of base pages.
    pub fn fingerprint_demand(&self) -> FingerprintDemand {
        if !self.commit.is_open() {
            return FingerprintDemand::None;
        }
        match self.memory {
            Memory::Vacant | Memory::Marking(_) | Memory::Clearing { .. } => {
                FingerprintDemand::NotYet
            }
            Memory::Receiving if !self.barrier.knows_last_round() => {
                self.terms().map_or(FingerprintDemand::None, |terms| {
                    FingerprintDemand::First(terms.base_pages)
                })
            }
            _ => FingerprintDemand::None,
        }
    }

    /// Pages that the source sent and that are not there.
    pub fn missing_pages(&self) -> PageCount {
        PageCount(self.missing.count)
    }

    /// The pages of a frame are in memory, but for `missing`, which the source is to be told
    /// before that the frame is [placed](Self::placed).
    pub fn made(&mut self, body: &PagesBody<'_>, missing: &[PageRange], now: Instant) {
        if self.missing.count == 0 && missing.is_empty() {
            return;
        }
        for run in body.runs() {
            // A delta for a page that is missing was made before the source knew: the page still
            // has to come whole.
            if run.encoding != Encoding::Delta {
                self.missing.remove(run.range);
            }
        }
        for run in missing {
            self.missing.insert(*run);
        }
        if !missing.is_empty() {
            // Before the acknowledgement: the source then knows that no answer is outstanding.
            self.peer.send(now, Message::Missing(missing.to_vec()));
        }
    }
}
