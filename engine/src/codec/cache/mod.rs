//! What the target holds of pages that change again and again: the old contents that
//! [deltas](super::xbzrle) are made against.
//!
//! Two kinds, chosen by the memory [budget](DeltaCache::new). If it covers the guest, a shadow
//! holds every page. If not, sets of sixteen hold the pages that were written in most rounds:
//! a round walks its dirty pages once and in order, so that recency, which is what most caches
//! go by, says nothing. A page that comes up once does not replace one that comes every round.
//!
//! Invariants:
//! - An entry is what the target holds once everything sent so far has arrived. Whoever sends a
//!   page in any other way must [`put`](DeltaCache::put) its content here too, and whoever does
//!   not know whether a page arrived must [`forget`](DeltaCache::forget) it.
//! - The memory taken is at most the budget, and all of it is allocated by `new`. The kernel
//!   populates it at first use, which costs a fault for each page that is first stored.
//!
//! Threads: pages belong to shards in stripes of sixteen, each shard with a lock that is held
//! while one page is compared and stored (0.1 to 3 us). Contents are right whoever calls; order is
//! not the cache's business: a page must be with one thread at a time, and at the target one round
//! must be in place before the next. Both hold where a page is sent once in a round and rounds end
//! with a barrier. Since threads then work on different pages, two of `n` meet in a shard about
//! once in 64/n pages.

mod heat;
mod sets;
mod shadow;
mod stats;

use super::xbzrle::{self, Encoded};
use crate::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex};
use sets::Sets;
use shadow::Shadow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use stats::CacheStats;

/// Consecutive pages of one shard: a thread that walks memory changes locks only so often, and a
/// small region of busy pages still spreads over all shards.
const STRIPE_PAGES: usize = 16;
/// Most shards there are.
const MAX_SHARDS: usize = 64;
/// Entries of a shard that are worth a lock.
const MIN_SHARD_ENTRIES: usize = 1024;

/// Why there is no cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The budget does not even hold the account of the guest's pages and one set.
    #[error("a delta cache of {budget} is too small for this guest; give it {least} or more")]
    BudgetTooSmall {
        /// What was given.
        budget: ByteCount,
        /// The smallest that works.
        least: ByteCount,
    },
}

/// How a page is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target has this content already: not at all.
    Unchanged,
    /// As a delta: the first so many bytes of the output.
    Delta(usize),
    /// Whole, because the cache does not have it, or because the delta would be longer.
    Whole,
}

/// The old contents of a guest's pages, within a memory budget.
#[derive(Debug)]
pub struct DeltaCache {
    shards: Box<[Padded]>,
    round: AtomicU32,
    footprint: ByteCount,
}

/// Locks on lines of their own: threads that take different ones do not disturb each other.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(Mutex<Shard>);

#[derive(Debug)]
struct Shard {
    store: Store,
    stats: CacheStats,
}

#[derive(Debug)]
enum Store {
    Shadow(Shadow),
    Sets(Sets),
}

impl DeltaCache {
    /// A cache for a guest of `pages` pages that takes at most `budget` of memory.
    ///
    /// # Errors
    /// When the budget is too small to be of any use.
    pub fn new(pages: PageCount, budget: ByteCount) -> Result<Self, CacheError> {
        let room_for_all = Self::room_for_all(pages);
        let pages = usize::try_from(pages.0).unwrap_or(usize::MAX);
        let shards = most_shards(pages);
        if room_for_all <= budget {
            let own_pages = pages_of_shard(pages, shards);
            let new = || Store::Shadow(Shadow::new(own_pages));
            return Ok(Self::of(shards, room_for_all.0, new));
        }
        let entries = usize::try_from(budget.0).unwrap_or(usize::MAX) / PAGE_BYTES;
        let few = pages.div_ceil(sets::MAX_PAGES).max(1);
        // Few where there is hardly room for the heats of the pages.
        for shards in [
            (entries / MIN_SHARD_ENTRIES).clamp(few, shards.max(few)),
            few,
        ] {
            let own_pages = pages_of_shard(pages, shards);
            let sets = Sets::within(own_pages, budget.0 / shards as u64);
            if sets > 0 {
                let bytes = Sets::bytes(own_pages, sets) * shards as u64;
                let new = || Store::Sets(Sets::new(own_pages, sets));
                return Ok(Self::of(shards, bytes, new));
            }
        }
        let least = Sets::bytes(pages_of_shard(pages, few), 1).saturating_mul(few as u64);
        let least = ByteCount(least);
        Err(CacheError::BudgetTooSmall { budget, least })
    }

    /// The budget from which on the cache of a guest of `pages` pages has room for all of them.
    pub fn room_for_all(pages: PageCount) -> ByteCount {
        let pages = usize::try_from(pages.0).unwrap_or(usize::MAX);
        let shards = most_shards(pages);
        ByteCount(Shadow::bytes(pages_of_shard(pages, shards)).saturating_mul(shards as u64))
    }

    fn of(shards: usize, bytes: u64, new: impl Fn() -> Store) -> Self {
        let shard = || {
            Padded(Mutex::new(Shard {
                store: new(),
                stats: CacheStats::default(),
            }))
        };
        Self {
            shards: std::iter::repeat_with(shard).take(shards).collect(),
            round: AtomicU32::new(0),
            footprint: ByteCount(bytes),
        }
    }

    /// Memory it takes when it is full.
    pub fn footprint(&self) -> ByteCount {
        self.footprint
    }

    /// A round begins: from now on pages may come that came already. Takes no time; entries are
    /// aged when they are next looked at.
    pub fn begin_round(&self) {
        self.round.fetch_add(1, Ordering::Relaxed);
    }

    /// Decides how to send a page whose content is now `new`, writes its delta to `out` if that
    /// is the way, and stores the content if the page is worth it.
    pub fn encode(&self, page: PageIndex, new: &[u8; PAGE_BYTES], out: &mut [u8]) -> Outcome {
        let (mut shard, own) = self.shard(page);
        let Shard { store, stats } = &mut *shard;
        stats.lookups += 1;
        let Some(entry) = self.look_up(store, own) else {
            self.insert(store, stats, own, new);
            return Outcome::Whole;
        };
        stats.hits += 1;
        let encoded = xbzrle::encode(entry, new, out);
        match encoded {
            Encoded::Unchanged => {
                stats.unchanged += 1;
                stats.saved_bytes += PAGE_BYTES as u64;
                Outcome::Unchanged
            }
            Encoded::Delta(length) => {
                stats.delta_bytes += length as u64;
                stats.saved_bytes += (PAGE_BYTES - length) as u64;
                // A short delta touches few lines of an entry that is seldom in a cache.
                let short = length <= PAGE_BYTES / 16;
                if !short || xbzrle::decode(&out[..length], entry).is_err() {
                    *entry = *new;
                }
                Outcome::Delta(length)
            }
            Encoded::Overflow => {
                stats.overflows += 1;
                *entry = *new;
                Outcome::Whole
            }
        }
    }

    /// Notes that the target gets `new` for a page by other means, such as a zero page.
    ///
    /// Counts for the page's heat like [`encode`](Self::encode), but not as a look-up.
    pub fn put(&self, page: PageIndex, new: &[u8; PAGE_BYTES]) {
        let (mut shard, own) = self.shard(page);
        let Shard { store, stats } = &mut *shard;
        match self.look_up(store, own) {
            Some(entry) => *entry = *new,
            None => self.insert(store, stats, own, new),
        }
    }

    /// Notes that the target gets `new` for a page that comes up for the first time. It is kept
    /// where there is room, until a page that comes up again needs its place.
    ///
    /// Each page at most once, and before [`begin_round`](Self::begin_round) was called twice.
    pub fn put_first(&self, page: PageIndex, new: &[u8; PAGE_BYTES]) {
        let (mut shard, own) = self.shard(page);
        let Shard { store, stats } = &mut *shard;
        let slot = match store {
            Store::Shadow(shadow) => Some(shadow.insert(own)),
            Store::Sets(sets) => sets.insert_first(own),
        };
        if let Some(slot) = slot {
            stats.stored += 1;
            *slot = *new;
        }
    }

    /// Drops a page: what the target holds of it is not known.
    pub fn forget(&self, page: PageIndex) {
        let (mut shard, own) = self.shard(page);
        match &mut shard.store {
            Store::Shadow(shadow) => shadow.forget(own),
            Store::Sets(sets) => sets.forget(own, self.round()),
        }
    }

    /// What happened so far. Threads that go on meanwhile may be counted or not.
    pub fn stats(&self) -> CacheStats {
        let mut sum = CacheStats::default();
        for shard in &self.shards {
            sum += lock(shard).stats;
        }
        sum
    }

    fn round(&self) -> u32 {
        self.round.load(Ordering::Relaxed)
    }

    /// The shard of a page, and the page's number in it.
    fn shard(&self, page: PageIndex) -> (MutexGuard<'_, Shard>, usize) {
        let page = usize::try_from(page.0).expect("a page of the layout that the cache is for");
        let stripe = page / STRIPE_PAGES;
        let own = stripe / self.shards.len() * STRIPE_PAGES + page % STRIPE_PAGES;
        (lock(&self.shards[stripe % self.shards.len()]), own)
    }

    fn look_up<'a>(&self, store: &'a mut Store, own: usize) -> Option<&'a mut [u8; PAGE_BYTES]> {
        match store {
            Store::Shadow(shadow) => shadow.look_up(own),
            Store::Sets(sets) => sets.look_up(own, self.round()),
        }
    }

    fn insert(
        &self,
        store: &mut Store,
        stats: &mut CacheStats,
        own: usize,
        new: &[u8; PAGE_BYTES],
    ) {
        let slot = match store {
            Store::Shadow(shadow) => Some(shadow.insert(own)),
            Store::Sets(sets) => sets.insert(own, self.round()),
        };
        match slot {
            Some(slot) => {
                stats.stored += 1;
                *slot = *new;
            }
            None => stats.refused += 1,
        }
    }
}

/// Shards of a cache with room for all of `pages` pages.
fn most_shards(pages: usize) -> usize {
    (pages / MIN_SHARD_ENTRIES).clamp(1, MAX_SHARDS)
}

/// Most pages that one of `shards` shards has.
fn pages_of_shard(pages: usize, shards: usize) -> usize {
    let stripes = pages.div_ceil(STRIPE_PAGES).div_ceil(shards);
    stripes.saturating_mul(STRIPE_PAGES)
}

/// A thread that panicked cannot have left an entry half written that others would then use:
/// the migration is over.
fn lock(shard: &Padded) -> MutexGuard<'_, Shard> {
    shard.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Page number `index` of `data`, which holds whole pages.
fn page_mut(data: &mut [u8], index: usize) -> &mut [u8; PAGE_BYTES] {
    data[index * PAGE_BYTES..]
        .first_chunk_mut()
        .expect("an entry is a whole page")
}
