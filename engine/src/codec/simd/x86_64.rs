//! SSE2 (which every x86-64 has), AVX2 and AVX-512: F for the zero test, BW to compare bytes, VBMI2
//! to write those that changed.

use super::{DIFF_WORDS, DiffKernel, Squeezer, Vector, ZeroKernel, generic};
use crate::units::PAGE_BYTES;
use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128,
    _mm_setzero_si128, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8,
    _mm256_or_si256, _mm256_testz_si256, _mm512_cmpneq_epi8_mask, _mm512_loadu_si512,
    _mm512_mask_expand_epi8, _mm512_maskz_compress_epi8, _mm512_or_si512, _mm512_storeu_si512,
    _mm512_sub_epi8, _mm512_test_epi64_mask,
};

/// Adds the zero tests that the processor can run, the widest last.
pub(super) fn add_zero(kernels: &mut Vec<ZeroKernel>) {
    kernels.push(ZeroKernel {
        name: "sse2",
        run: sse2,
    });
    if is_x86_feature_detected!("avx2") {
        kernels.push(ZeroKernel {
            name: "avx2",
            run: avx2,
        });
    }
    if is_x86_feature_detected!("avx512f") {
        kernels.push(ZeroKernel {
            name: "avx512",
            run: avx512,
        });
    }
}

/// Adds the comparisons that the processor can run, the widest last.
pub(super) fn add_diff(kernels: &mut Vec<DiffKernel>) {
    kernels.push(DiffKernel {
        name: "sse2",
        run: sse2_diff,
        squeezer: None,
    });
    if is_x86_feature_detected!("avx2") {
        kernels.push(DiffKernel {
            name: "avx2",
            run: avx2_diff,
            squeezer: None,
        });
    }
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
        kernels.push(DiffKernel {
            name: "avx512",
            run: avx512_diff,
            squeezer: (is_x86_feature_detected!("avx512vbmi2")
                && is_x86_feature_detected!("popcnt"))
            .then_some(Squeezer {
                run: avx512_squeeze,
            }),
        });
    }
}

#[target_feature(enable = "sse2")]
fn sse2(data: &[u8]) -> bool {
    // SAFETY: this function enables the instructions of the vector.
    unsafe { generic::is_zero::<__m128i>(data) }
}

#[target_feature(enable = "avx2")]
fn avx2(data: &[u8]) -> bool {
    // SAFETY: as above.
    unsafe { generic::is_zero::<__m256i>(data) }
}

#[target_feature(enable = "avx512f")]
fn avx512(data: &[u8]) -> bool {
    // SAFETY: as above.
    unsafe { generic::is_zero::<__m512i>(data) }
}

#[target_feature(enable = "sse2")]
fn sse2_diff(old: &[u8; PAGE_BYTES], new: &[u8; PAGE_BYTES], masks: &mut [u64; DIFF_WORDS]) -> u64 {
    // SAFETY: as above.
    unsafe { generic::diff::<__m128i>(old, new, masks) }
}

#[target_feature(enable = "avx2")]
fn avx2_diff(old: &[u8; PAGE_BYTES], new: &[u8; PAGE_BYTES], masks: &mut [u64; DIFF_WORDS]) -> u64 {
    // SAFETY: as above.
    unsafe { generic::diff::<__m256i>(old, new, masks) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn avx512_diff(
    old: &[u8; PAGE_BYTES],
    new: &[u8; PAGE_BYTES],
    masks: &mut [u64; DIFF_WORDS],
) -> u64 {
    // SAFETY: as above.
    unsafe { generic::diff::<__m512i>(old, new, masks) }
}

/// All runs of 64 bytes at once: the places of all edges, in order, give the lengths; these go
/// to the last two bytes of the gaps; then the rest of the gaps is left out.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
fn avx512_squeeze(new: &[u8; 64], starts: u64, ends: u64, out: &mut [u8; 64]) -> usize {
    let own_ends = ends & ends.wrapping_sub(1);
    // Each run's end less its start.
    let literals = own_ends.wrapping_sub(starts);
    let kept = literals | starts >> 1 | starts >> 2;
    // SAFETY: both are 64 bytes.
    let (places, bytes) = unsafe { (__m512i::load(PLACES.as_ptr()), __m512i::load(new.as_ptr())) };
    let ends_before = _mm512_maskz_compress_epi8(ends, places);
    let starts_of = _mm512_maskz_compress_epi8(starts, places);
    let ends_of = _mm512_maskz_compress_epi8(own_ends, places);
    let gaps = _mm512_sub_epi8(starts_of, ends_before);
    let lengths = _mm512_sub_epi8(ends_of, starts_of);
    let bytes = _mm512_mask_expand_epi8(bytes, starts >> 2, gaps);
    let bytes = _mm512_mask_expand_epi8(bytes, starts >> 1, lengths);
    let squeezed = _mm512_maskz_compress_epi8(kept, bytes);
    // SAFETY: `out` is 64 bytes.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), squeezed) };
    kept.count_ones() as usize
}

/// The number of each byte of a register.
const PLACES: [u8; 64] = {
    let mut places = [0; 64];
    let mut at = 0;
    while at < 64 {
        places[at] = at as u8;
        at += 1;
    }
    places
};

// SAFETY: only used, inlined, in `sse2` and `sse2_diff`.
unsafe impl Vector for __m128i {
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for the bytes and the instruction.
        unsafe { _mm_loadu_si128(from.cast()) }
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: the caller vouches for the instruction.
        unsafe { _mm_or_si128(self, other) }
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        // SAFETY: as above.
        unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(self, _mm_setzero_si128())) == 0xffff }
    }

    #[inline(always)]
    unsafe fn diff(self, other: Self) -> u64 {
        // SAFETY: as above.
        let equal = unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(self, other)) };
        u64::from(!equal.cast_unsigned() & 0xffff)
    }
}

// SAFETY: only used, inlined, in `avx2` and `avx2_diff`.
unsafe impl Vector for __m256i {
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for the bytes and the instruction.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: the caller vouches for the instruction.
        unsafe { _mm256_or_si256(self, other) }
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        // SAFETY: as above.
        unsafe { _mm256_testz_si256(self, self) == 1 }
    }

    #[inline(always)]
    unsafe fn diff(self, other: Self) -> u64 {
        // SAFETY: as above.
        let equal = unsafe { _mm256_movemask_epi8(_mm256_cmpeq_epi8(self, other)) };
        u64::from(!equal.cast_unsigned())
    }
}

// SAFETY: only used, inlined, in `avx512`, `avx512_squeeze` and `avx512_diff`: AVX-512BW is needed
// by the last one's `diff` alone.
unsafe impl Vector for __m512i {
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for the bytes and the instruction.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: the caller vouches for the instruction.
        unsafe { _mm512_or_si512(self, other) }
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        // SAFETY: as above.
        unsafe { _mm512_test_epi64_mask(self, self) == 0 }
    }

    #[inline(always)]
    unsafe fn diff(self, other: Self) -> u64 {
        // SAFETY: as above.
        unsafe { _mm512_cmpneq_epi8_mask(self, other) }
    }
}
