//! Finds pages that the target has already, and gathers them into references.
//!
//! Pages whose places follow each other as they do share a reference: where a guest comes back
//! to a host that has its old memory, one for [`MAX_REFERENCE_PAGES`] pages. The content of a
//! reference lies side by side in the buffer it was read into, and is hashed there, before
//! anything is moved over it: whoever adds a page that is not part of the reference under way
//! [closes](DedupEncoder::close) it first.

use std::sync::Arc;
use std::time::Duration;

use super::dedup_gate::{DedupGate, Looked};
use crate::codec::dedup::{DedupSetting, fingerprint};
use crate::migration::{Batch, DedupContext, SentFrame};
use crate::units::{PAGE_BYTES, PageCount, PageIndex, PageRange};
use crate::wire::{MAX_REFERENCE_PAGES, PagesBuilder, Place, REFERENCE_BYTES, Reference};

/// Finds references for one channel.
#[derive(Debug)]
pub(in super::super) struct DedupEncoder {
    dedup: Arc<DedupContext>,
    worth: DedupGate,
    /// Whether this frame is looked through.
    looks: bool,
    looked: Looked,
    /// What to add to a page's number for the place where it is likely to be.
    shift: u64,
    open: Option<Open>,
}

/// A reference under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    range: PageRange,
    /// The number of the first base page of the run.
    place: u64,
    /// Where the content of its pages begins.
    at: usize,
}

impl DedupEncoder {
    /// For one channel.
    pub(in super::super) fn new(dedup: Arc<DedupContext>, setting: DedupSetting) -> Self {
        Self {
            dedup,
            worth: DedupGate::new(setting),
            looks: false,
            looked: Looked::default(),
            shift: 0,
            open: None,
        }
    }

    /// Begins a frame.
    pub(super) fn begin(&mut self, batch: &Batch) {
        self.looked = Looked::default();
        self.looks = batch.may_refer && self.worth.look();
    }

    /// Adds `page`, whose content is at `at` of `data`, to a reference; whether the target has
    /// it. A page that it has not is to go whole.
    pub(super) fn add(
        &mut self,
        batch: &Batch,
        page: PageIndex,
        at: usize,
        data: &[u8],
        builder: &mut PagesBuilder,
        frame: &mut SentFrame,
    ) -> bool {
        let Some(place) = self.find(batch, page, &data[at..at + PAGE_BYTES]) else {
            self.looked.whole += 1;
            self.close(data, builder, frame);
            return false;
        };
        self.looked.hits += 1;
        if let Some(open) = &mut self.open
            && open.takes(page, place)
        {
            open.range.count += PageCount(1);
            return true;
        }
        self.close(data, builder, frame);
        self.open = Some(Open {
            range: PageRange {
                first: page,
                count: PageCount(1),
            },
            place,
            at,
        });
        true
    }

    fn find(&mut self, batch: &Batch, page: PageIndex, content: &[u8]) -> Option<u64> {
        if !self.looks || batch.whole.binary_search(&page).is_ok() {
            return None;
        }
        self.looked.looks += 1;
        let own = &self.dedup;
        let fingerprint = fingerprint(own.nonce, content);
        let likely = page.0.wrapping_add(self.shift);
        let base_page = own.fingerprints.find(likely, fingerprint)?;
        self.shift = base_page.wrapping_sub(page.0);
        Some(base_page)
    }

    /// Writes the reference under way, if there is one, to the frame.
    pub(super) fn close(&mut self, data: &[u8], builder: &mut PagesBuilder, frame: &mut SentFrame) {
        let Some(open) = self.open.take() else {
            return;
        };
        let content = &data[open.at..open.at + open.range.len_bytes()];
        let reference = Reference {
            place: Place::Base(open.place),
            identity: self.dedup.secret.identity(content),
        };
        builder.add_reference(open.range, &reference);
        frame.reference += open.range.count.0;
        frame.encoded.reference += REFERENCE_BYTES as u64;
    }

    /// The frame took `time` from the reading of its pages until it was sent.
    pub(super) fn sent(&mut self, time: Duration) {
        self.worth.sent(self.looked, time);
    }
}

impl Open {
    /// Whether `page`, which is at `place`, goes on where this ends.
    fn takes(&self, page: PageIndex, place: u64) -> bool {
        let count = self.range.count.0;
        self.place + count == place
            && self.range.end() == page.0
            && count < MAX_REFERENCE_PAGES as u64
    }
}
