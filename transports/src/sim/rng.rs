//! Random numbers that follow from a seed, the same on every machine and in every version.

use std::time::Duration;

/// xoshiro256** 1.0, seeded through SplitMix64 (Blackman and Vigna, "Scrambled linear
/// pseudorandom number generators", 2018). Not for secrets.
#[derive(Clone, Debug)]
pub struct SimRng([u64; 4]);

impl SimRng {
    /// The generator that `seed` names.
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        Self([(); 4].map(|()| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }))
    }

    /// A generator whose numbers do not depend on how many are drawn from this one later.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.u64())
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `limit`, or 0 if that is 0. The bias is below 2^-32 for limits of 32 bits.
    pub fn below(&mut self, limit: u64) -> u64 {
        let wide = u128::from(self.u64()) * u128::from(limit);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A number in `from..=to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below((to - from).saturating_add(1))
    }

    /// True once in `times` on average; always if that is 0 or 1.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A time below `limit`.
    pub fn time(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(limit))
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::try_from(self.below(items.len() as u64)).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First numbers for seed 0, from the authors' reference code.
    #[test]
    fn the_sequence_is_the_published_one() {
        let mut rng = SimRng([1, 2, 3, 4]);
        let first: Vec<u64> = (0..4).map(|_| rng.u64()).collect();
        assert_eq!(first, [11520, 0, 1_509_978_240, 1_215_971_899_390_074_240]);
    }

    #[test]
    fn numbers_stay_below_their_limit_and_reach_it() {
        let mut rng = SimRng::new(7);
        let drawn: std::collections::BTreeSet<u64> = (0..200).map(|_| rng.below(5)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(rng.below(0), 0);
        assert!((0..100).all(|_| (3..=4).contains(&rng.between(3, 4))));
    }
}
