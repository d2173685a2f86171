//! Deduplication at the source: what the target has, and which references failed there.
//!
//! A page that is missing goes again in the next round, without a reference. In the last round
//! no references are sent, and no channel ends it before every frame with a reference is
//! acknowledged: answers come before acknowledgements, so none is outstanding then.

use std::sync::Arc;

use super::Source;
use super::types::Batch;
use crate::codec::dedup::{FingerprintIndex, Secret};
use crate::memory::PageBitmap;
use crate::migration::error::{MigrationError, misbehaved};
use crate::units::{PageCount, PageIndex, PageRange};
use crate::wire::{DedupTerms, FingerprintChunk, MAX_REFERENCE_PAGES, SessionId};

/// What references are made from; shared by the machine and the channels.
#[derive(Debug)]
pub struct DedupContext {
    /// Makes identities.
    pub secret: Secret,
    /// The target's random number, for fingerprints.
    pub nonce: u128,
    /// The fingerprints of its base pages.
    pub fingerprints: FingerprintIndex,
}

impl DedupContext {
    /// On the target's terms, with room for the fingerprints of at most `most` base pages.
    fn new(session: SessionId, terms: DedupTerms, most: u64) -> Self {
        Self {
            secret: Secret::new(session.0, terms.nonce),
            nonce: terms.nonce,
            fingerprints: FingerprintIndex::new(terms.base_pages.min(most)),
        }
    }
}

/// References that the target could not follow.
#[derive(Debug)]
pub(super) struct MissingPages {
    /// Most base pages to index, if references are wanted.
    max_base_pages: Option<u64>,
    dedup: Option<Arc<DedupContext>>,
    /// Missing pages that go with the next round; in the last round, those that go again.
    returned: PageBitmap,
    /// Pages that must go whole when they are sent next.
    whole: PageBitmap,
    /// Pages in `whole`.
    whole_count: u64,
    missing: u64,
}

impl MissingPages {
    pub(super) fn new(max_base_pages: Option<u64>, guest: PageCount) -> Self {
        Self {
            max_base_pages,
            dedup: None,
            returned: PageBitmap::new(guest),
            whole: PageBitmap::new(guest),
            whole_count: 0,
            missing: 0,
        }
    }

    /// Pages that the target said it misses, repeats counted.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// The target misses `page`.
    fn return_page(&mut self, page: u64) {
        let own = PageRange::new(page, 1);
        self.returned.insert(own);
        if !self.whole.contains(page) {
            self.whole.insert(own);
            self.whole_count += 1;
        }
    }

    /// Adds the pages that are to go again.
    pub(super) fn add_returned(&self, into: &mut PageBitmap) {
        into.union(&self.returned);
    }

    /// Says in `batch` which of its pages must go whole.
    pub(super) fn mark(&mut self, batch: &mut Batch) {
        batch.whole.clear();
        if self.whole_count == 0 {
            return;
        }
        for page in batch.runs.iter().flat_map(|run| run.indices()) {
            if self.whole.contains(page) {
                self.whole.remove(PageRange::new(page, 1));
                self.whole_count -= 1;
                batch.whole.push(PageIndex(page));
            }
        }
    }
}

impl Source {
    /// What references are made from, once the target has agreed to take some and has base pages.
    pub fn dedup(&self) -> Option<Arc<DedupContext>> {
        self.missing_pages.dedup.clone()
    }

    pub(super) fn accept_dedup(&mut self, terms: Option<DedupTerms>) -> Result<(), MigrationError> {
        match (terms, self.missing_pages.max_base_pages) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(misbehaved("terms for references that were not asked for")),
            (Some(terms), Some(_)) if terms.base_pages == 0 => Ok(()),
            (Some(terms), Some(most)) => {
                let dedup = DedupContext::new(self.session, terms, most);
                self.missing_pages.dedup = Some(Arc::new(dedup));
                Ok(())
            }
        }
    }

    pub(super) fn handle_fingerprints(
        &self,
        chunk: &FingerprintChunk,
    ) -> Result<(), MigrationError> {
        let dedup = self.missing_pages.dedup.as_ref();
        let noted =
            dedup.is_some_and(|own| own.fingerprints.insert(chunk.first, &chunk.fingerprints));
        if noted {
            Ok(())
        } else {
            Err(misbehaved(
                "fingerprints of base pages beyond what was agreed",
            ))
        }
    }

    pub(super) fn handle_missing(&mut self, runs: &[PageRange]) -> Result<(), MigrationError> {
        let agreed = self.missing_pages.dedup.is_some() && self.round > 0;
        let can_be = |run: &PageRange| {
            run.count.0 <= MAX_REFERENCE_PAGES as u64 && self.layout.contains(*run)
        };
        if !agreed || !runs.iter().all(can_be) {
            return Err(misbehaved("it misses pages that were not sent"));
        }
        // Each page that was sent can be missing once: what a target may cost is bounded by that.
        let missing: u64 = runs.iter().map(|run| run.count.0).sum();
        if self.missing_pages.missing + missing > self.channels.handed_out_pages() {
            return Err(misbehaved("it misses more pages than were sent"));
        }
        if self.is_over() {
            return Ok(());
        }
        if !self.state.takes_answers() {
            return Err(misbehaved("it misses pages when no answer is due"));
        }
        let is_last_round = self.state.is_last_round();
        self.missing_pages.missing += missing;
        for run in runs {
            for page in run.indices() {
                if is_last_round {
                    if self.missing_pages.returned.contains(page) {
                        // It is on its way, or was, for an older reference: nothing writes it any
                        // more.
                        continue;
                    }
                    self.send_set.add_to_round(page);
                }
                self.missing_pages.return_page(page);
            }
        }
        Ok(())
    }

    /// Missing pages go with the round that is about to begin.
    pub(super) fn take_returned(&mut self) {
        if self.missing_pages.missing > 0 {
            self.send_set.add(&self.missing_pages.returned);
            self.missing_pages.returned.clear();
        }
    }
}
