//! What the guest's memory must hold, computed without the guest.
//!
//! The formulas are those of `tests/guest/writer.c`; the constants are the ones of splitmix64
//! (Steele, Lea and Flood, 2014) and of xorshift64 with the shifts 13, 7, 17 (Marsaglia, 2003).

/// Bytes of a guest page.
pub const PAGE_BYTES: usize = 4096;

/// 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of splitmix64.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Page number `page` of the writer's memory, of random content, after the fill and before any
/// write to it.
pub fn filled_page(seed: u64, page: u64) -> [u8; PAGE_BYTES] {
    let mut state = mix(seed ^ mix(page.wrapping_add(GOLDEN))) | 1;
    let mut bytes = [0; PAGE_BYTES];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// The running checksum of one of the writer's threads: the sum of the draws 1 to `writes`.
#[derive(Clone, Debug)]
pub struct WriteSum {
    seed: u64,
    writes: u64,
    sum: u64,
}

impl WriteSum {
    /// Before the first write of thread `thread` (from 0).
    pub fn new(seed: u64, thread: u64) -> Self {
        Self {
            seed: mix(seed.wrapping_add(GOLDEN.wrapping_mul(thread + 1))),
            writes: 0,
            sum: 0,
        }
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// The checksum after `writes` writes; a few nanoseconds for each since the last call.
    /// `None` if there have been more already.
    pub fn advance_to(&mut self, writes: u64) -> Option<u64> {
        if writes < self.writes {
            return None;
        }
        while self.writes < writes {
            self.writes += 1;
            let draw = mix(self.seed.wrapping_add(self.writes.wrapping_mul(GOLDEN)));
            self.sum = self.sum.wrapping_add(draw);
        }
        Some(self.sum)
    }
}
