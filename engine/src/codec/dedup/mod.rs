//! Pages whose content the target already has: how both sides know them.
//!
//! Two hashes, both keyed by what nobody in the guest knows:
//! - a [fingerprint] of 64 bits, cheap enough for every page (12 GB/s and core),
//!   finds where a page may be in the [`FingerprintIndex`] of the target's base pages. It proves
//!   nothing.
//! - the [identity](Secret::identity) of 128 bits (BLAKE3: 1.8 GB/s for one page, 5 GB/s for
//!   four or more) goes with the reference. The target hashes what it finds at the place that
//!   the reference names and takes it only if the identity is the same.
//!
//! So a wrong or outdated fingerprint costs the sending of a page, and never its content.
//!
//! # Why 128 bits are enough
//!
//! A wrong page is taken only if another content has the same identity. The target compares
//! each reference with the one place it names, so the chance is 2^-128 a reference: for the
//! largest guest there can be (2^34 pages), sent as references a thousand times over, 2^-84.
//! Somebody who can choose content, such as the guest's own programs, would need two contents
//! of one identity; finding these takes 2^64 hashes if the key is known, and is a matter of
//! that chance if it is not. The key is made of a random number of each side for one migration,
//! and is dead after it. The peers themselves trust each other: they have the guest.
//!
//! Pure: no clock, no file, and the tables are safe to share between threads.

mod fingerprint_index;
mod setting;

pub use fingerprint_index::FingerprintIndex;
pub use setting::{DedupSetting, ParseDedupError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::units::{ByteCount, PAGE_BYTES, PageCount};

/// Most base pages of a target that the source of a guest of `guest` pages indexes: twice
/// the guest, so that an image fits beside what its last visit left; at most 256 GiB.
pub fn max_base_pages(guest: PageCount) -> u64 {
    guest.0.saturating_mul(2).clamp(1 << 12, 1 << 26)
}

/// Memory that the source of a guest of `guest` pages needs for references at most: 13 to 18
/// bytes for each base page of the target.
pub fn footprint(guest: PageCount) -> ByteCount {
    FingerprintIndex::footprint(max_base_pages(guest))
}

/// Keys of one migration.
#[derive(Clone)]
pub struct Secret {
    identity_key: [u8; 32],
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What the keys are for; a change of it is a change of the protocol.
const CONTEXT: &str = "pagelift 2026-11 identity of pages that are sent by reference";

impl Secret {
    /// The key for the migration `session`, a random number of the source, to a target whose
    /// random number is `nonce`.
    pub fn new(session: u128, nonce: u128) -> Self {
        let mut material = [0; 32];
        material[..16].copy_from_slice(&session.to_le_bytes());
        material[16..].copy_from_slice(&nonce.to_le_bytes());
        Self {
            identity_key: blake3::derive_key(CONTEXT, &material),
        }
    }

    /// The identity of whole pages together: the first 16 bytes of their keyed BLAKE3, as a
    /// little-endian number.
    pub fn identity(&self, pages: &[u8]) -> u128 {
        debug_assert!(
            !pages.is_empty() && pages.len().is_multiple_of(PAGE_BYTES),
            "whole pages"
        );
        let hash = blake3::keyed_hash(&self.identity_key, pages);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        u128::from_le_bytes(bytes)
    }
}

/// The fingerprint of a page that is not zero, under the target's random number; never 0.
///
/// XXH3-64, seeded. Depends on the target's number alone, so that a target can begin before the
/// source has come.
pub fn fingerprint(nonce: u128, page: &[u8]) -> u64 {
    debug_assert_eq!(page.len(), PAGE_BYTES, "one page");
    let seed = (nonce ^ (nonce >> 64)) as u64;
    xxh3_64_with_seed(page, seed).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_depend_on_content_and_on_both_random_numbers() {
        let (one, other) = (vec![1; 2 * PAGE_BYTES], vec![2; 2 * PAGE_BYTES]);
        let secret = Secret::new(3, 4);
        assert_eq!(secret.identity(&one), Secret::new(3, 4).identity(&one));
        assert_ne!(secret.identity(&one), secret.identity(&other));
        assert_ne!(secret.identity(&one), secret.identity(&one[..PAGE_BYTES]));
        assert_ne!(secret.identity(&one), Secret::new(3, 5).identity(&one));
        assert_ne!(secret.identity(&one), Secret::new(5, 4).identity(&one));
        assert_ne!(
            Secret::new(3, 4).identity(&one),
            Secret::new(4, 3).identity(&one)
        );
    }

    #[test]
    fn fingerprints_depend_on_content_and_the_targets_number() {
        let page = |value| [value; PAGE_BYTES];
        assert_eq!(fingerprint(7, &page(1)), fingerprint(7, &page(1)));
        assert_ne!(fingerprint(7, &page(1)), fingerprint(7, &page(2)));
        assert_ne!(fingerprint(7, &page(1)), fingerprint(8, &page(1)));
        assert_ne!(fingerprint(7, &page(1)), fingerprint(7 << 64, &page(2)));
    }
}
