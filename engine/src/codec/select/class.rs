//! The class of a block's content, from a sample of its bytes.
//!
//! The measure is the collision entropy of single bytes: minus the logarithm of the chance that
//! two bytes of the sample are equal. Unlike Shannon's it has an estimator without bias and
//! without logarithms, so a sample of 512 bytes tells random content (8 bits) from the rest:
//! the estimate for random bytes is off by 0.06 bits (one standard deviation).
//!
//! It does not see repetition: two equal pages of random bytes count as random. What such blocks
//! compress to is learnt like everything else, as an average over their class.

use crate::units::PAGE_BYTES;

/// Bytes are sampled as words of 8: a word costs one access to memory.
const WORDS: usize = 64;
const WORD_BYTES: usize = 8;
const SAMPLE: usize = WORDS * WORD_BYTES;

/// Ordered pairs of different bytes of the sample.
const PAIRS: usize = SAMPLE * (SAMPLE - 1);

/// Blocks that compress alike, as far as a sample tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockClass(u8);

impl BlockClass {
    /// How many classes there are.
    pub(super) const COUNT: usize = 9;

    /// Content without order: random, encrypted, compressed before.
    pub(super) const RANDOM: Self = Self(8);

    /// All of them, by index.
    pub(super) fn all() -> [Self; Self::COUNT] {
        std::array::from_fn(|index| Self(index as u8))
    }

    /// The class of a block, which is at least a page long.
    pub fn of(pages: &[u8]) -> Self {
        debug_assert!(pages.len() >= PAGE_BYTES, "a block holds pages");
        let stride = pages.len() / WORDS;
        // Gathered before they are counted, so that the processor waits for many of them at once.
        let mut sample = [[0u8; WORD_BYTES]; WORDS];
        for (word, bytes) in sample.iter_mut().enumerate() {
            // Not always at the same place of a page, where a header may be.
            let jitter = (word * 0x9e5) % stride.max(1);
            let at = word * stride + jitter / WORD_BYTES * WORD_BYTES;
            if let Some(from) = pages.get(at..at + WORD_BYTES) {
                bytes.copy_from_slice(from);
            }
        }
        let mut counts = [0u16; 256];
        for byte in sample.as_flattened() {
            counts[usize::from(*byte)] += 1;
        }
        Self::of_counts(&counts)
    }

    fn of_counts(counts: &[u16; 256]) -> Self {
        let squares: u32 = counts
            .iter()
            .map(|count| u32::from(*count) * u32::from(*count))
            .sum();
        let equal = (squares as usize).saturating_sub(SAMPLE).max(1);
        // 7.75 bits: four standard deviations below random content.
        if equal * 215 < PAIRS {
            return Self::RANDOM;
        }
        // Whole bits of entropy, 0 to 7.
        Self((PAIRS / equal).max(1).ilog2().min(7) as u8)
    }

    /// The class as an index, below [`COUNT`](Self::COUNT).
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(pages: usize, mut state: u64) -> Vec<u8> {
        (0..pages * PAGE_BYTES)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect()
    }

    #[test]
    fn random_bytes_are_told_from_nearly_random_ones() {
        for seed in 1..500 {
            for pages in [1, 3, 64] {
                let mut bytes = random(pages, seed);
                assert_eq!(BlockClass::of(&bytes), BlockClass::RANDOM, "{seed}");
                // Seven bits of each byte.
                bytes.iter_mut().for_each(|byte| *byte &= 0x7f);
                assert!(BlockClass::of(&bytes) < BlockClass::RANDOM, "{seed}");
            }
        }
    }

    #[test]
    fn a_class_is_the_whole_bits_of_entropy() {
        for bits in 1..8u32 {
            // One symbol more than a power of two, evenly spread.
            let symbols = (1u32 << bits) + (1 << bits) / 8;
            let bytes: Vec<u8> = random(16, 7)
                .chunks(2)
                .map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]])) % symbols)
                .map(|symbol| symbol as u8)
                .collect();
            assert_eq!(BlockClass::of(&bytes), BlockClass(bits as u8));
        }
        assert_eq!(BlockClass::of(&[0; PAGE_BYTES]), BlockClass(0));
    }

    #[test]
    fn the_sample_is_spread_over_pages_of_any_number() {
        for pages in 1..=64 {
            // Half the block is constant, half is random.
            let mut bytes = random(pages, 3);
            let half = bytes.len() / 2;
            bytes[..half].fill(0);
            let class = BlockClass::of(&bytes);
            assert!(class <= BlockClass(2), "{pages} pages: {class:?}");
            assert!(class >= BlockClass(1), "{pages} pages: {class:?}");
        }
    }
}
