//! NEON, which every aarch64 that Linux runs on has.

use super::{DIFF_WORDS, Vector, generic};
use crate::units::PAGE_BYTES;
use std::arch::aarch64::{
    uint8x16_t, vaddv_u8, vandq_u8, vceqq_u8, vget_high_u8, vget_low_u8, vld1q_u8, vmaxvq_u8,
    vmvnq_u8, vorrq_u8,
};

#[target_feature(enable = "neon")]
pub(super) fn is_zero(data: &[u8]) -> bool {
    // SAFETY: this function enables the instructions of the vector.
    unsafe { generic::is_zero::<uint8x16_t>(data) }
}

#[target_feature(enable = "neon")]
pub(super) fn diff(
    old: &[u8; PAGE_BYTES],
    new: &[u8; PAGE_BYTES],
    masks: &mut [u64; DIFF_WORDS],
) -> u64 {
    // SAFETY: this function enables the instructions of the vector.
    unsafe { generic::diff::<uint8x16_t>(old, new, masks) }
}

/// The bit that each byte of one half of a register stands for.
const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];

// SAFETY: only used, inlined, in `diff` and `is_zero`.
unsafe impl Vector for uint8x16_t {
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for the bytes and the instruction.
        unsafe { vld1q_u8(from) }
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: the caller vouches for the instruction.
        unsafe { vorrq_u8(self, other) }
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        // SAFETY: as above.
        unsafe { vmaxvq_u8(self) == 0 }
    }

    #[inline(always)]
    unsafe fn diff(self, other: Self) -> u64 {
        // SAFETY: as above; the constant holds 16 bytes. The sum of a half is at most 255.
        unsafe {
            let bits = vandq_u8(vmvnq_u8(vceqq_u8(self, other)), vld1q_u8(BITS.as_ptr()));
            let low = vaddv_u8(vget_low_u8(bits));
            let high = vaddv_u8(vget_high_u8(bits));
            u64::from(low) | u64::from(high) << 8
        }
    }
}
