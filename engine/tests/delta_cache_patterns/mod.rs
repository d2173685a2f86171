//! Which pages a guest dirties in each round, as a harvest gives them: each once, in order.

use std::collections::BTreeSet;

/// A small generator (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The dirty pages of a round.
type Pattern = fn(u32, &mut Random) -> BTreeSet<u64>;

/// Patterns by name, with the percentage points by which the cache must beat QEMU's policy. All
/// are for a cache of 1024 pages and a guest of 16384.
pub(crate) const PATTERNS: [(&str, Pattern, f64); 8] = [
    (
        "a contiguous set that fits",
        |_, _| (9000..9900).collect(),
        -0.1,
    ),
    ("a scattered set that fits", scattered_fits, 15.0),
    ("uniform, all of it each round", uniform_whole, 0.0),
    ("uniform, a quarter of it each round", uniform_quarter, 1.0),
    ("zipf", zipf, 8.0),
    ("a scattered hot set and a scan", hot_and_scan, 6.0),
    ("a contiguous hot set and noise", hot_and_noise, 0.0),
    ("phases", phases, 8.0),
];

/// Page numbers that are spread over the guest like those of a heap: number `index` of a set.
fn spread(index: u64) -> u64 {
    // Each step can be undone, so that different indices give different pages.
    let mut page = index.wrapping_mul(40_503) % 16_384;
    page ^= page >> 7;
    page = page.wrapping_mul(30_637) % 16_384;
    page ^ page >> 9
}

/// Three quarters of the cache.
fn scattered_fits(_: u32, _: &mut Random) -> BTreeSet<u64> {
    (0..768).map(spread).collect()
}

/// Three times the cache.
fn uniform_whole(_: u32, _: &mut Random) -> BTreeSet<u64> {
    (0..3072).map(spread).collect()
}

fn uniform_quarter(_: u32, random: &mut Random) -> BTreeSet<u64> {
    (0..1024).map(|_| spread(random.below(3072))).collect()
}

/// 2048 writes a round to 8192 pages, page k with a weight of about 1/k.
fn zipf(_: u32, random: &mut Random) -> BTreeSet<u64> {
    let page = |random: &mut Random| (8192f64.powf(random.fraction()) as u64).min(8191);
    (0..2048).map(|_| spread(page(random))).collect()
}

/// Half the cache in every round, and a walk through the guest of two caches a round.
fn hot_and_scan(round: u32, _: &mut Random) -> BTreeSet<u64> {
    let scan = u64::from(round) * 2048;
    let scan = (scan..scan + 2048).map(|page| page % 16_384);
    (0..512).map(spread).chain(scan).collect()
}

/// Three quarters of the cache in every round, and as many pages at random.
fn hot_and_noise(_: u32, random: &mut Random) -> BTreeSet<u64> {
    let noise: Vec<u64> = (0..768).map(|_| random.below(16_384)).collect();
    (5000..5768).chain(noise).collect()
}

/// A scattered set of three quarters of the cache that is another one every ten rounds.
fn phases(round: u32, _: &mut Random) -> BTreeSet<u64> {
    let first = u64::from(round / 10) * 768;
    (first..first + 768).map(spread).collect()
}
