//! Blocks: batches of 1 to 64 pages, compressed together.
//!
//! One page alone compresses badly: its text is its only history, and the set-up of a call
//! weighs more than its work. A batch of 64 pages packs to a tenth less than the same pages one
//! by one, text to a third less, with zstd at 1.5 times the speed
//! (`docs/decisions/020-blocks-of-pages.md` has the numbers).
//!
//! An [encoder](BlockEncoder) says when a block does not pay; such a block is to be sent raw,
//! so there is no expansion. A [decoder](BlockDecoder) is told by the frame how many pages
//! there must be. It takes no length from the data: it writes to the caller's buffer alone,
//! and whatever fills that not exactly is an error, after which the buffer holds zeros and
//! nothing that was in it before.
//!
//! Both own what they need, allocated once and used again; one of each per thread.
//!
//! Cost on one core of a server (Zen 5), 64 pages of mixed content: LZ4 packs 0.9 GiB/s and
//! unpacks 5.8, zstd at level 1 0.65 and 2.0 GiB/s.

mod lz4;
mod lz4_decode;
#[cfg_attr(not(feature = "zstd"), path = "no_zstd.rs")]
mod zstd;

use super::Codec;
use crate::units::{ByteCount, PAGE_BYTES};

/// Most pages in one block.
pub const MAX_BLOCK_PAGES: usize = 64;

/// Most bytes that a block is packed to, in 32nds of its content: less of a saving is not worth
/// the target's work.
const PAYS_UP_TO_32NDS: usize = 31;

/// The most that `bytes` of content may be packed to for the block to be worth sending.
pub const fn paying_bytes(bytes: usize) -> usize {
    bytes / 32 * PAYS_UP_TO_32NDS
}

/// What a [`BlockDecoder`] takes.
pub const DECODER_BYTES: u64 = 160 << 10;

/// How a block is packed, as the wire says it. Levels are the encoder's business alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// An LZ4 block, as LZ4's `lz4_Block_format.md` describes it: no frame, no length.
    Lz4,
    /// One or more frames of zstd (RFC 8878), without dictionary.
    Zstd,
}

impl Codec {
    /// How the target must read what this codec packs; `None` for raw pages.
    pub fn format(self) -> Option<BlockFormat> {
        match self {
            Self::Raw => None,
            Self::Lz4 => Some(BlockFormat::Lz4),
            Self::Zstd(_) => Some(BlockFormat::Zstd),
        }
    }
}

/// Packs blocks of pages.
#[derive(Debug)]
pub struct BlockEncoder {
    lz4: lz4::Encoder,
    zstd: zstd::Encoder,
}

impl BlockEncoder {
    /// An encoder with contexts for `codecs`. A codec that is not among them can be used as
    /// well: what it needs is allocated on its first block.
    ///
    /// Memory: at most [`most_bytes`](Self::most_bytes), after its first large block.
    pub fn new(codecs: &[Codec]) -> Self {
        let levels = codecs.iter().filter_map(|codec| match codec {
            Codec::Zstd(level) => Some(*level),
            Codec::Raw | Codec::Lz4 => None,
        });
        Self {
            lz4: lz4::Encoder::new(),
            zstd: zstd::Encoder::new(levels),
        }
    }

    /// The most memory that an encoder for `codecs` comes to take; 0 if none of them packs.
    pub fn most_bytes(codecs: &[Codec]) -> ByteCount {
        let of = |codec: &Codec| match codec {
            Codec::Raw => 0,
            Codec::Lz4 => lz4::MOST_BYTES,
            Codec::Zstd(level) => lz4::MOST_BYTES + zstd::most_bytes(*level),
        };
        let lz4s = codecs.iter().filter(|codec| **codec != Codec::Raw).count() as u64;
        // Whatever the codecs, there is one of LZ4.
        let spare = lz4s.saturating_sub(1) * lz4::MOST_BYTES;
        ByteCount(codecs.iter().map(of).sum::<u64>() - spare)
    }

    /// Packs `pages` into the beginning of `out` and returns how many bytes that took.
    ///
    /// `None` if it does not pay: the result would be longer than `out` or than
    /// [`paying_bytes`], or the codec is [`Codec::Raw`]. What `out` holds then is unspecified.
    ///
    /// # Panics
    /// If `pages` is not 1 to [`MAX_BLOCK_PAGES`] whole pages.
    pub fn encode(&mut self, codec: Codec, pages: &[u8], out: &mut [u8]) -> Option<usize> {
        assert!(
            is_block(pages.len()),
            "{} bytes are not 1 to {MAX_BLOCK_PAGES} pages",
            pages.len()
        );
        let limit = paying_bytes(pages.len()).min(out.len());
        let out = &mut out[..limit];
        match codec {
            Codec::Raw => None,
            Codec::Lz4 => self.lz4.encode(pages, out),
            Codec::Zstd(level) => self.zstd.encode(level, pages, out),
        }
    }
}

/// Why a block cannot be read. The peer that sent it is broken or hostile: the frame's checksum
/// was right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// No whole number of pages, or too many.
    #[error("a block of {0} bytes of pages cannot be; a block holds 1 to {MAX_BLOCK_PAGES} pages")]
    NotPages(usize),
    /// The data breaks the rules of its format, or holds more than the pages.
    #[error("a block of pages is not valid {format}: {reason}")]
    Malformed {
        /// `LZ4` or `zstd`.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The data ends before the pages are full.
    #[error("a block of pages holds {actual} bytes instead of {expected}")]
    Short {
        /// Bytes of the pages.
        expected: usize,
        /// Bytes that there were.
        actual: usize,
    },
    /// The build lacks the format.
    #[error(
        "a block of pages is packed with zstd, which this build cannot read; \
         send with --compress lz4, or build pagelift with its feature `zstd`"
    )]
    NoZstd,
}

/// Unpacks blocks of pages.
#[derive(Debug)]
pub struct BlockDecoder {
    zstd: zstd::Decoder,
}

impl BlockDecoder {
    /// A decoder. Memory: [`DECODER_BYTES`].
    pub fn new() -> Self {
        Self {
            zstd: zstd::Decoder::new(),
        }
    }

    /// Unpacks `data` to exactly the pages of `out`.
    ///
    /// # Errors
    /// When `data` is anything else than a block of that many pages, or `out` is not 1 to
    /// [`MAX_BLOCK_PAGES`] whole pages. Then `out` is all zero.
    pub fn decode(
        &mut self,
        format: BlockFormat,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<(), BlockError> {
        let decoded = if is_block(out.len()) {
            match format {
                BlockFormat::Lz4 => lz4::decode(data, out),
                BlockFormat::Zstd => self.zstd.decode(data, out),
            }
        } else {
            Err(BlockError::NotPages(out.len()))
        };
        let expected = out.len();
        let checked = decoded.and_then(|actual| {
            if actual == expected {
                Ok(())
            } else {
                Err(BlockError::Short { expected, actual })
            }
        });
        if checked.is_err() {
            // Neither half a block nor what the buffer held before may reach the guest.
            out.fill(0);
        }
        checked
    }
}

impl Default for BlockDecoder {
    fn default() -> Self {
        Self::new()
    }
}

fn is_block(bytes: usize) -> bool {
    bytes.is_multiple_of(PAGE_BYTES) && (1..=MAX_BLOCK_PAGES).contains(&(bytes / PAGE_BYTES))
}

#[cfg(test)]
mod tests;
