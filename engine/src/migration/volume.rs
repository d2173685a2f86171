//! How many bytes the content of pages took, by how it was carried.

use std::ops::AddAssign;

use super::report::PagesSent;
use crate::units::{ByteCount, PageCount};

/// Bytes of the pages' data on the wire, without what frames and runs say of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataBytes {
    /// Words that fill pages.
    pub fill: u64,
    /// Pages as they are.
    pub raw: u64,
    /// What changed in pages.
    pub delta: u64,
    /// Blocks of LZ4.
    pub lz4: u64,
    /// Blocks of zstd.
    pub zstd: u64,
    /// References to what the target has.
    pub reference: u64,
}

impl DataBytes {
    /// All of it.
    pub fn total(&self) -> ByteCount {
        ByteCount(self.fill + self.raw + self.delta + self.lz4 + self.zstd + self.reference)
    }

    /// What the pages would have taken as they are, less what they took: what fills, deltas and
    /// packing saved. Zero pages and references are left out.
    pub fn saved(&self, pages: &PagesSent) -> ByteCount {
        let others = pages.sent().0 - pages.zero - pages.reference;
        let whole = PageCount(others + pages.unchanged).bytes();
        let took = self.total().0 - self.reference;
        ByteCount(whole.0.saturating_sub(took))
    }
}

impl AddAssign for DataBytes {
    fn add_assign(&mut self, other: Self) {
        self.fill += other.fill;
        self.raw += other.raw;
        self.delta += other.delta;
        self.lz4 += other.lz4;
        self.zstd += other.zstd;
        self.reference += other.reference;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_is_what_whole_pages_would_have_taken_beyond() {
        let pages = PagesSent {
            skipped: 100,
            zero: 50,
            fill: 1,
            raw: 2,
            delta: 3,
            lz4: 4,
            zstd: 0,
            reference: 6,
            unchanged: 5,
        };
        let data = DataBytes {
            fill: 8,
            raw: 8192,
            delta: 30,
            lz4: 5000,
            zstd: 0,
            reference: 44,
        };
        assert_eq!(data.saved(&pages), ByteCount(15 * 4096 - 13230));
    }
}
