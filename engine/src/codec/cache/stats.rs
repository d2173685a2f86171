//! What a cache did.

use std::ops::AddAssign;

/// Counts since the cache was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Pages that were to be encoded.
    pub lookups: u64,
    /// Those of them that the cache had.
    pub hits: u64,
    /// Hits that had not changed.
    pub unchanged: u64,
    /// Hits whose delta would have been longer than the page.
    pub overflows: u64,
    /// Pages taken in.
    pub stored: u64,
    /// Pages not taken in because those that were there came up more often.
    pub refused: u64,
    /// Bytes of all deltas.
    pub delta_bytes: u64,
    /// Bytes of pages that were sent as deltas or not at all, less those of the deltas.
    pub saved_bytes: u64,
}

impl CacheStats {
    /// Hits per look-up, from 0 to 1; `None` if there were no look-ups.
    pub fn hit_rate(&self) -> Option<f64> {
        (self.lookups > 0).then(|| self.hits as f64 / self.lookups as f64)
    }
}

impl AddAssign for CacheStats {
    fn add_assign(&mut self, other: Self) {
        self.lookups += other.lookups;
        self.hits += other.hits;
        self.unchanged += other.unchanged;
        self.overflows += other.overflows;
        self.stored += other.stored;
        self.refused += other.refused;
        self.delta_bytes += other.delta_bytes;
        self.saved_bytes += other.saved_bytes;
    }
}
