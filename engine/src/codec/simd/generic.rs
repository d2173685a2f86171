//! The algorithms, over any [`Vector`].

use super::{DIFF_WORDS, Vector};
use crate::units::PAGE_BYTES;

/// Bytes that are combined before one test, whatever the register's width: from memory, tests in
/// between cost narrow registers half of the rate.
const BLOCK: usize = 256;

/// Whether every byte of `data` is zero.
///
/// A block at a time, then a register at a time, then the last register's worth again, which may
/// overlap what was seen already. Data shorter than a register goes byte by byte.
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
pub(super) unsafe fn is_zero<V: Vector>(data: &[u8]) -> bool {
    if data.len() < V::BYTES {
        return data.iter().all(|byte| *byte == 0);
    }
    let mut blocks = data.chunks_exact(BLOCK);
    for block in &mut blocks {
        // Two sums, so that not every load waits for the one before.
        // SAFETY: a block is at least two registers' worth of bytes.
        let mut even = unsafe { V::load(block.as_ptr()) };
        // SAFETY: as above.
        let mut odd = unsafe { V::load(block.as_ptr().add(V::BYTES)) };
        for at in (2 * V::BYTES..BLOCK).step_by(2 * V::BYTES) {
            // SAFETY: `2 * V::BYTES` divides the length of a block.
            unsafe {
                even = even.or(V::load(block.as_ptr().add(at)));
                odd = odd.or(V::load(block.as_ptr().add(at + V::BYTES)));
            }
        }
        // SAFETY: see above.
        if !unsafe { even.or(odd).is_zero() } {
            return false;
        }
    }
    for piece in blocks.remainder().chunks_exact(V::BYTES) {
        // SAFETY: the piece holds one register's worth of bytes.
        if !unsafe { V::load(piece.as_ptr()).is_zero() } {
            return false;
        }
    }
    let tail = &data[data.len() - V::BYTES..];
    // SAFETY: so does the tail.
    unsafe { V::load(tail.as_ptr()).is_zero() }
}

/// Says which bytes differ between two pages; see [`DiffKernel::diff`](super::DiffKernel::diff).
///
/// Sixty-four bytes of each page at a time, whatever the register's width: each step fills one
/// word. There is no early end, and no branch at all: the cost does not depend on the content.
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
pub(super) unsafe fn diff<V: Vector>(
    old: &[u8; PAGE_BYTES],
    new: &[u8; PAGE_BYTES],
    masks: &mut [u64; DIFF_WORDS],
) -> u64 {
    let mut changed = 0;
    for (word, mask) in masks.iter_mut().enumerate() {
        *mask = 0;
        for at in (0..64).step_by(V::BYTES) {
            // SAFETY: 64 words of 64 bytes are one page, and `V::BYTES` divides 64.
            let bits = unsafe {
                let old = V::load(old.as_ptr().add(word * 64 + at));
                old.diff(V::load(new.as_ptr().add(word * 64 + at)))
            };
            *mask |= bits << at;
        }
        changed |= u64::from(*mask != 0) << word;
    }
    changed
}
