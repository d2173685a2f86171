//! LZ4 blocks: packed by `lz4_flex`, unpacked by a [decoder](lz4_decode) of our own.
//!
//! The encoder of `lz4_flex` is built with unsafe code, which only ever sees our own pages, and is
//! as fast as the C library's. Its decoders are not (`docs/decisions/029`).

use super::{BlockError, MAX_BLOCK_PAGES, lz4_decode};
use crate::units::PAGE_BYTES;
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

/// From this length on `lz4_flex` needs the table with entries of 32 bits.
const LARGE_BYTES: usize = u16::MAX as usize;

/// What an encoder takes: tables of 8 and 16 KiB, and the worst case of a block.
pub(super) const MOST_BYTES: u64 = 300 << 10;

/// Tables and a buffer, allocated once.
pub(super) struct Encoder {
    small: CompressTable,
    large: CompressTable,
    /// `lz4_flex` wants room for the worst case, which the caller need not have.
    packed: Box<[u8]>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    pub(super) fn new() -> Self {
        let most = get_maximum_output_size(MAX_BLOCK_PAGES * PAGE_BYTES);
        Self {
            small: CompressTable::small(),
            large: CompressTable::large(),
            packed: vec![0; most].into(),
        }
    }

    /// Packs `pages` into `out`; `None` if it does not fit.
    pub(super) fn encode(&mut self, pages: &[u8], out: &mut [u8]) -> Option<usize> {
        let table = if pages.len() < LARGE_BYTES {
            &mut self.small
        } else {
            &mut self.large
        };
        let len = compress_into_with_table(pages, &mut self.packed, table).ok()?;
        out.get_mut(..len)?.copy_from_slice(&self.packed[..len]);
        Some(len)
    }
}

/// Unpacks `data` into the beginning of `out`; returns how much that was.
pub(super) fn decode(data: &[u8], out: &mut [u8]) -> Result<usize, BlockError> {
    lz4_decode::unpack(data, out).map_err(|error| BlockError::Malformed {
        format: "LZ4",
        reason: error.to_string(),
    })
}
