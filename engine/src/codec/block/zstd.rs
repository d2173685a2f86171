//! zstd frames, by the C library.
//!
//! A context for each level: a context that changes level sets itself up anew. Frames carry
//! their length, which lets the decoder skip its window, but no checksum: the wire's frame has
//! one. zstd may allocate again when blocks of one size follow many of another; it never does
//! while they are alike.

use super::BlockError;
use crate::codec::ZstdLevel;
use zstd_safe::{CCtx, CParameter, DCtx, get_error_name};

/// The most that a context of this level takes for blocks of up to 64 pages. What its tables
/// and work space come to, as `ZSTD_sizeof_CCtx` says, and a little more.
pub(super) fn most_bytes(level: ZstdLevel) -> u64 {
    match level.get() {
        ..=0 => 640 << 10,
        1..=3 => 1152 << 10,
        4..=10 => 3328 << 10,
        _ => 6 << 20,
    }
}

/// Contexts by level.
pub(super) struct Encoder {
    contexts: Vec<(ZstdLevel, CCtx<'static>)>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let levels = self.contexts.iter().map(|(level, _)| level.get());
        f.debug_list().entries(levels).finish()
    }
}

impl Encoder {
    pub(super) fn new(levels: impl Iterator<Item = ZstdLevel>) -> Self {
        let mut encoder = Self {
            contexts: Vec::new(),
        };
        for level in levels {
            encoder.context(level);
        }
        encoder
    }

    /// Packs `pages` into `out`; `None` if it does not fit.
    pub(super) fn encode(
        &mut self,
        level: ZstdLevel,
        pages: &[u8],
        out: &mut [u8],
    ) -> Option<usize> {
        // The only errors are a lack of room and a lack of memory: the pages go raw then.
        self.context(level).compress2(out, pages).ok()
    }

    /// What the context of `level` takes now.
    #[cfg(test)]
    pub(super) fn bytes(&mut self, level: ZstdLevel) -> u64 {
        self.context(level).sizeof() as u64
    }

    fn context(&mut self, level: ZstdLevel) -> &mut CCtx<'static> {
        let known = self.contexts.iter().position(|(known, _)| *known == level);
        let index = known.unwrap_or_else(|| {
            let mut context = CCtx::create();
            context
                .set_parameter(CParameter::CompressionLevel(level.get()))
                .expect("a level in zstd's range is accepted");
            self.contexts.push((level, context));
            self.contexts.len() - 1
        });
        &mut self.contexts[index].1
    }
}

/// A context, used again.
pub(super) struct Decoder {
    context: DCtx<'static>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            context: DCtx::create(),
        }
    }

    /// Unpacks `data` into the beginning of `out`; returns how much that was.
    ///
    /// In one call, straight to `out`: zstd then keeps no window, whatever size a frame asks
    /// for.
    pub(super) fn decode(&mut self, data: &[u8], out: &mut [u8]) -> Result<usize, BlockError> {
        self.context
            .decompress(out, data)
            .map_err(|code| BlockError::Malformed {
                format: "zstd",
                reason: get_error_name(code).to_owned(),
            })
    }
}
