//! Deltas of a migration: what the target holds of pages, shared by the source's channels.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::codec::cache::{CacheError, CacheStats, DeltaCache, Outcome};
use crate::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex};

/// Contents that deltas are made against.
///
/// A page is with one channel at a time and is sent at most once in a round, and rounds end with
/// a barrier at the target: what the cache holds of a page is what the target will hold of it
/// when the delta arrives. The cache goes with the migration, so a failed one leaves nothing
/// wrong behind.
#[derive(Debug)]
pub struct Deltas {
    cache: DeltaCache,
    /// The newest round that a page was shown of.
    round: AtomicU32,
}

impl Deltas {
    /// Deltas for a guest of `pages` pages, with at most `budget` of memory.
    ///
    /// # Errors
    /// When the budget is too small to be of use.
    pub fn new(pages: PageCount, budget: ByteCount) -> Result<Self, CacheError> {
        let cache = DeltaCache::new(pages, budget)?;
        Ok(Self {
            cache,
            round: AtomicU32::new(0),
        })
    }

    /// The budget from which on there is room for all pages of a guest of `pages` pages.
    pub fn room_for_all(pages: PageCount) -> ByteCount {
        DeltaCache::room_for_all(pages)
    }

    /// Memory it takes.
    pub fn footprint(&self) -> ByteCount {
        self.cache.footprint()
    }

    /// What it came to so far. Takes the locks of the cache, one after the other.
    pub fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Pages of `round` follow. All pages of earlier rounds have been shown.
    pub(super) fn enter_round(&self, round: u32) {
        if self.round.fetch_max(round, Ordering::Relaxed) < round {
            self.cache.begin_round();
        }
    }

    /// Decides how to send `page` of a round after the first; a delta is written to `out`, and is
    /// no longer than that.
    pub(super) fn encode(
        &self,
        page: PageIndex,
        content: &[u8; PAGE_BYTES],
        out: &mut [u8],
    ) -> Outcome {
        self.cache.encode(page, content, out)
    }

    /// The target gets `content` for `page`, which comes up for the first time.
    pub(super) fn put_first(&self, page: PageIndex, content: &[u8; PAGE_BYTES]) {
        self.cache.put_first(page, content);
    }

    /// The target gets `content` for `page`, which came up before, by other means than a delta.
    pub(super) fn put(&self, page: PageIndex, content: &[u8; PAGE_BYTES]) {
        self.cache.put(page, content);
    }

    /// What the target holds of `page` is not known.
    pub(super) fn forget(&self, page: PageIndex) {
        self.cache.forget(page);
    }
}
