//! The vector that every machine has: a 64-bit word.

use super::{Vector, generic};

// SAFETY: no special instructions.
unsafe impl Vector for u64 {
    const BYTES: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 8 readable bytes; their order does not matter.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        self | other
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        self == 0
    }
}

pub(super) fn is_zero(data: &[u8]) -> bool {
    // SAFETY: no special instructions.
    unsafe { generic::is_zero::<u64>(data) }
}
