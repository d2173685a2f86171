//! The vector that every machine has: words of 64 bits.

use super::{DIFF_WORDS, Vector, generic};
use crate::units::PAGE_BYTES;

// SAFETY: no special instructions.
unsafe impl Vector for u64 {
    const BYTES: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 8 readable bytes.
        let word = unsafe { from.cast::<Self>().read_unaligned() };
        // The first byte is to be the lowest, as `diff` counts them.
        Self::from_le(word)
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        self | other
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        self == 0
    }

    #[inline(always)]
    unsafe fn diff(self, other: Self) -> u64 {
        const LOW_SEVEN: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        let changed = self ^ other;
        // The sum carries into a byte's highest bit if any of the lower seven is set, and never
        // into the next byte.
        let highest = (((changed & LOW_SEVEN) + LOW_SEVEN) | changed) & !LOW_SEVEN;
        // Byte i's bit is at 8i + 7. Shifted by 49 - 7i, it is at 56 + i; the other products go
        // elsewhere, each to a place of its own, so that nothing carries.
        highest.wrapping_mul(0x0002_0408_1020_4081) >> 56
    }
}

pub(super) fn diff(
    old: &[u8; PAGE_BYTES],
    new: &[u8; PAGE_BYTES],
    masks: &mut [u64; DIFF_WORDS],
) -> u64 {
    // SAFETY: no special instructions.
    unsafe { generic::diff::<u64>(old, new, masks) }
}

pub(super) fn is_zero(data: &[u8]) -> bool {
    // SAFETY: no special instructions.
    unsafe { generic::is_zero::<u64>(data) }
}
