//! A digest of a guest's whole memory, to compare both sides at the switchover.
//!
//! The sum, modulo 2^128, of XXH3-128 over the content of every page that is not zero, seeded
//! with the number of the page. A sum does not depend on order: threads can digest different
//! pages and [combine](MemoryDigest::combine) what they got. Zero pages add nothing, so pages
//! that were never populated need not be read.
//!
//! This finds errors (a lost page, a page in the wrong place, a flipped bit), with a chance of
//! 2^-128 to miss one. It is no protection against somebody who *wants* two memories to look
//! alike: neither the hash nor the sum is made for that.
//!
//! Cost: about 32 GiB/s and core in the cache, less than reading the memory.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::zero::is_zero;
use crate::units::{PAGE_BYTES, PageIndex};

/// The digest of a set of pages; the default is that of memory that is all zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryDigest(u128);

impl MemoryDigest {
    /// Adds the whole pages in `data`, the first of which is page `first`.
    ///
    /// Each page of the memory is to be added once; those that are zero may be left out.
    pub fn add_pages(&mut self, first: PageIndex, data: &[u8]) {
        debug_assert_eq!(data.len() % PAGE_BYTES, 0, "whole pages");
        for (page, content) in (first.0..).zip(data.chunks_exact(PAGE_BYTES)) {
            if !is_zero(content) {
                self.0 = self.0.wrapping_add(xxh3_128_with_seed(content, page));
            }
        }
    }

    /// The digest of the pages of both, which have none in common.
    #[must_use]
    pub fn combine(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The digest as a number, to be sent.
    pub fn value(self) -> u128 {
        self.0
    }
}

impl From<u128> for MemoryDigest {
    /// The digest that has this [value](MemoryDigest::value), as received.
    fn from(value: u128) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory(values: &[u8]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| [*value; PAGE_BYTES])
            .collect()
    }

    fn digest(first: u64, values: &[u8]) -> MemoryDigest {
        let mut digest = MemoryDigest::default();
        digest.add_pages(PageIndex(first), &memory(values));
        digest
    }

    #[test]
    fn zero_pages_add_nothing() {
        assert_eq!(digest(7, &[0, 0]), MemoryDigest::default());
        assert_eq!(digest(7, &[0, 3, 0]), digest(8, &[3]));
    }

    #[test]
    fn content_and_place_both_count() {
        assert_ne!(digest(1, &[3]), digest(2, &[3]), "the same page elsewhere");
        assert_ne!(digest(1, &[3, 4]), digest(1, &[4, 3]), "two pages swapped");
        let mut flipped = memory(&[3]);
        flipped[4095] ^= 1;
        let mut other = MemoryDigest::default();
        other.add_pages(PageIndex(1), &flipped);
        assert_ne!(digest(1, &[3]), other);
    }

    /// The seed is the page number and the hash is XXH3-128: both sides must agree on it, so a
    /// change of either is a change of the protocol.
    #[test]
    fn the_definition_stays_what_it_is() {
        let expected = xxh3_128_with_seed(&[3; PAGE_BYTES], 5);
        assert_eq!(digest(5, &[3]).value(), expected);
        assert_eq!(MemoryDigest::from(expected), digest(5, &[3]));
    }

    proptest! {
        #[test]
        fn any_split_and_order_give_the_same_digest(
            values in prop::collection::vec(0u8..3, 1..20),
            cut in 0usize..20,
        ) {
            let cut = cut.min(values.len());
            let (low, high) = values.split_at(cut);
            let parts = digest(100 + cut as u64, high).combine(digest(100, low));
            prop_assert_eq!(parts, digest(100, &values));
        }
    }
}
