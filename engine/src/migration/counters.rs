//! What is counted of the pages that were sent: by frame, and over the whole migration.

use std::ops::AddAssign;

use super::stages::SourceStages;
use crate::units::{ByteCount, PageCount};
use crate::wire::{REFERENCE_BYTES, RUN_BYTES};

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct SentFrame {
    /// Bytes on the wire.
    pub bytes: ByteCount,
    /// Pages that held only zeros.
    pub zero: u64,
    /// Pages of one word.
    pub same_filled: u64,
    /// Pages sent as they are.
    pub raw: u64,
    /// Those of them that the transport has placed by itself.
    pub placed: u64,
    /// Pages sent as what changed in them.
    pub delta: u64,
    /// Pages sent in blocks of LZ4.
    pub lz4: u64,
    /// Pages sent in blocks of zstd.
    pub zstd: u64,
    /// Pages sent as references to what the target has.
    pub reference: u64,
    /// Pages that were written, but hold what the target has already.
    pub unchanged: u64,
    /// Bytes of the pages' data, by encoding.
    pub encoded: EncodedBytes,
    /// What reading, encoding and sending it took, and the waiting before.
    pub stages: SourceStages,
}

impl SentFrame {
    /// Pages of the batch.
    pub fn pages(&self) -> u64 {
        let packed = self.lz4 + self.zstd;
        let small = self.zero + self.same_filled + self.delta + self.reference + self.unchanged;
        small + packed + self.raw
    }

    /// The same without references, and the bytes of the frame without theirs: what speaks for
    /// the last round, which has none.
    pub(super) fn beyond_references(&self) -> (PageCount, ByteCount) {
        let references = self.encoded.reference / REFERENCE_BYTES as u64;
        let bytes = references * (RUN_BYTES + REFERENCE_BYTES) as u64;
        (
            PageCount(self.pages() - self.reference),
            ByteCount(self.bytes.0.saturating_sub(bytes)),
        )
    }
}

/// Pages of the whole migration by how they went over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagesSent {
    /// Never populated, so neither read nor sent.
    pub skipped: u64,
    /// Found to hold only zeros; sent as a mark.
    pub zero: u64,
    /// Found to hold one word only; sent as that word.
    pub same_filled: u64,
    /// Sent as they are.
    pub raw: u64,
    /// Those of them that the transport has put into the target's memory by itself.
    pub placed: u64,
    /// Sent as what changed in them.
    pub delta: u64,
    /// Sent in blocks of LZ4.
    pub lz4: u64,
    /// Sent in blocks of zstd.
    pub zstd: u64,
    /// Sent as references to content that the target has; those it then missed included.
    pub reference: u64,
    /// Written by the guest, but found to hold what the target has already.
    pub unchanged: u64,
}

impl PagesSent {
    /// Pages that were read and sent in some form, repeats counted.
    pub fn sent(&self) -> PageCount {
        let packed = self.lz4 + self.zstd;
        PageCount(self.zero + self.same_filled + self.raw + self.delta + packed + self.reference)
    }

    /// Adds the pages of a frame.
    pub(super) fn count(&mut self, frame: &SentFrame) {
        self.zero += frame.zero;
        self.same_filled += frame.same_filled;
        self.raw += frame.raw;
        self.placed += frame.placed;
        self.delta += frame.delta;
        self.lz4 += frame.lz4;
        self.zstd += frame.zstd;
        self.reference += frame.reference;
        self.unchanged += frame.unchanged;
    }
}

/// Bytes of the pages' data on the wire, without what frames and runs say of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodedBytes {
    /// Words that fill pages.
    pub same_filled: u64,
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

impl EncodedBytes {
    /// All of it.
    pub fn total(&self) -> ByteCount {
        ByteCount(self.same_filled + self.raw + self.delta + self.lz4 + self.zstd + self.reference)
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

impl AddAssign for EncodedBytes {
    fn add_assign(&mut self, other: Self) {
        self.same_filled += other.same_filled;
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
            same_filled: 1,
            raw: 2,
            placed: 0,
            delta: 3,
            lz4: 4,
            zstd: 0,
            reference: 6,
            unchanged: 5,
        };
        let encoded = EncodedBytes {
            same_filled: 8,
            raw: 8192,
            delta: 30,
            lz4: 5000,
            zstd: 0,
            reference: 44,
        };
        assert_eq!(encoded.saved(&pages), ByteCount(15 * 4096 - 13230));
    }

    #[test]
    fn references_do_not_speak_for_pages_that_go_whole() {
        let frame = SentFrame {
            bytes: ByteCount(24 + 8 + 2 * 44 + 20 + 4096),
            raw: 1,
            reference: 60,
            encoded: EncodedBytes {
                raw: 4096,
                reference: 48,
                ..EncodedBytes::default()
            },
            ..SentFrame::default()
        };
        let whole = (PageCount(1), ByteCount(24 + 8 + 20 + 4096));
        assert_eq!(frame.beyond_references(), whole);
    }
}
