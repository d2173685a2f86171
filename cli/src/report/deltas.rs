//! The counts of the delta cache, in a report and while a guest moves: how often it held the old
//! content that a delta needs, how often a delta was then too large, and what deltas saved.

use pagelift_engine::codec::cache::CacheStats;
use pagelift_engine::units::ByteCount;

/// The counts in words; `None` where nothing was looked up.
pub fn text(stats: &CacheStats) -> Option<String> {
    let rate = stats.hit_rate()?;
    Some(format!(
        "delta cache: had {} of {} pages that came again ({:.0} %), {} of them changed too much \
         for a delta; {} saved",
        stats.hits,
        stats.lookups,
        rate * 100.0,
        stats.overflows,
        ByteCount(stats.saved_bytes)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_overflows_and_savings_are_told() {
        let stats = CacheStats {
            lookups: 200,
            hits: 150,
            unchanged: 10,
            overflows: 5,
            stored: 60,
            refused: 0,
            delta_bytes: 3000,
            saved_bytes: 2 << 20,
        };
        assert_eq!(
            text(&stats).unwrap(),
            "delta cache: had 150 of 200 pages that came again (75 %), 5 of them changed too much \
             for a delta; 2.0 MiB saved"
        );
    }

    #[test]
    fn where_nothing_was_looked_up_there_is_no_rate() {
        let stats = CacheStats::default();
        assert_eq!(text(&stats), None);
    }
}
