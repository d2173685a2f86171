//! NEON, which every aarch64 that Linux runs on has.

use super::{Vector, generic};
use std::arch::aarch64::{uint8x16_t, vld1q_u8, vmaxvq_u8, vorrq_u8};

#[target_feature(enable = "neon")]
pub(super) fn is_zero(data: &[u8]) -> bool {
    // SAFETY: this function enables the instructions of the vector.
    unsafe { generic::is_zero::<uint8x16_t>(data) }
}

// SAFETY: only used, inlined, in `is_zero`.
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
}
