//! References: what the target has, which pages it misses, and when all answers are in.
//!
//! A page that is missing goes again in the next round, without a reference. In the last round
//! no references are sent, and no channel ends it before every frame with a reference is
//! acknowledged: answers come before acknowledgements, so none is outstanding then.

use std::sync::Arc;

use super::Source;
use super::types::Batch;
use crate::codec::reference::{Catalogue, Secret};
use crate::memory::PageBitmap;
use crate::migration::error::{MigrationError, misbehaved};
use crate::units::{PageCount, PageIndex, PageRange};
use crate::wire::{CatalogueChunk, MAX_REFERENCE_PAGES, ReferenceTerms, SessionId};

/// What references of a migration are made with; shared by the machine and the channels.
#[derive(Debug)]
pub struct References {
    /// Makes identities.
    pub secret: Secret,
    /// The target's random number, for fingerprints.
    pub nonce: u128,
    /// What the target kept.
    pub catalogue: Catalogue,
}

impl References {
    /// On the target's terms, with room for at most `most` pages that it kept.
    fn new(session: SessionId, terms: ReferenceTerms, most: u64) -> Self {
        Self {
            secret: Secret::new(session.0, terms.nonce),
            nonce: terms.nonce,
            catalogue: Catalogue::new(terms.kept_pages.min(most)),
        }
    }
}

/// What the source remembers of references.
#[derive(Debug)]
pub(super) struct Answers {
    /// Most pages of the target's catalogue, if references are wanted.
    most_kept: Option<u64>,
    references: Option<Arc<References>>,
    /// Missing pages that go with the next round; in the last round, those that go again.
    returned: PageBitmap,
    /// Pages that must go whole when they are sent next.
    whole: PageBitmap,
    /// Pages in `whole`.
    whole_count: u64,
    missing: u64,
}

impl Answers {
    pub(super) fn new(most_kept: Option<u64>, guest: PageCount) -> Self {
        Self {
            most_kept,
            references: None,
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
    /// What references are made with, once the target has agreed to take some and has kept pages.
    pub fn references(&self) -> Option<Arc<References>> {
        self.answers.references.clone()
    }

    pub(super) fn accept_references(
        &mut self,
        terms: Option<ReferenceTerms>,
    ) -> Result<(), MigrationError> {
        match (terms, self.answers.most_kept) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(misbehaved("terms for references that were not asked for")),
            (Some(terms), Some(_)) if terms.kept_pages == 0 => Ok(()),
            (Some(terms), Some(most)) => {
                let references = References::new(self.session, terms, most);
                self.answers.references = Some(Arc::new(references));
                Ok(())
            }
        }
    }

    pub(super) fn handle_catalogue(&self, chunk: &CatalogueChunk) -> Result<(), MigrationError> {
        let references = self.answers.references.as_ref();
        let noted =
            references.is_some_and(|own| own.catalogue.insert(chunk.first, &chunk.fingerprints));
        if noted {
            Ok(())
        } else {
            Err(misbehaved("a catalogue of pages beyond what was agreed"))
        }
    }

    pub(super) fn handle_missing(&mut self, runs: &[PageRange]) -> Result<(), MigrationError> {
        let agreed = self.answers.references.is_some() && self.round > 0;
        let can_be = |run: &PageRange| {
            run.count.0 <= MAX_REFERENCE_PAGES as u64 && self.layout.contains(*run)
        };
        if !agreed || !runs.iter().all(can_be) {
            return Err(misbehaved("it misses pages that were not sent"));
        }
        // Each page that was sent can be missing once: what a target may cost is bounded by that.
        let missing: u64 = runs.iter().map(|run| run.count.0).sum();
        if self.answers.missing + missing > self.channels.handed_out_pages() {
            return Err(misbehaved("it misses more pages than were sent"));
        }
        if self.is_over() {
            return Ok(());
        }
        if !self.state.takes_answers() {
            return Err(misbehaved("it misses pages when no answer is due"));
        }
        let is_last_round = self.state.is_last_round();
        self.answers.missing += missing;
        for run in runs {
            for page in run.indices() {
                if is_last_round {
                    if self.answers.returned.contains(page) {
                        // It is on its way, or was, for an older reference: nothing writes it any
                        // more.
                        continue;
                    }
                    self.send_set.add_to_round(page);
                }
                self.answers.return_page(page);
            }
        }
        Ok(())
    }

    /// Missing pages go with the round that is about to begin.
    pub(super) fn take_returned(&mut self) {
        if self.answers.missing > 0 {
            self.send_set.add(&self.answers.returned);
            self.answers.returned.clear();
        }
    }
}
