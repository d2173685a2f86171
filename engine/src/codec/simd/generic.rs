//! The algorithms, over any [`Vector`].

use super::Vector;

/// Registers that are combined before one test: enough to hide the latency of loads.
const UNROLL: usize = 4;

/// Whether every byte of `data` is zero.
///
/// Four registers at a time, then one at a time, then the last register's worth again, which may
/// overlap what was seen already. Data shorter than a register goes byte by byte.
///
/// # Safety
/// See [`Vector`].
#[inline(always)]
pub(super) unsafe fn is_zero<V: Vector>(data: &[u8]) -> bool {
    if data.len() < V::BYTES {
        return data.iter().all(|byte| *byte == 0);
    }
    let mut blocks = data.chunks_exact(UNROLL * V::BYTES);
    for block in &mut blocks {
        let at = block.as_ptr();
        // SAFETY: the block holds four registers' worth of bytes.
        let any = unsafe {
            let low = V::load(at).or(V::load(at.add(V::BYTES)));
            let high = V::load(at.add(2 * V::BYTES)).or(V::load(at.add(3 * V::BYTES)));
            low.or(high)
        };
        // SAFETY: see above.
        if !unsafe { any.is_zero() } {
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
