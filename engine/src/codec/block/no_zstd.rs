//! In place of zstd in a build without it: there are no levels, and no frame can be read.

use super::BlockError;
use crate::codec::ZstdLevel;

/// There is no level to take any.
pub(super) fn most_bytes(_: ZstdLevel) -> u64 {
    0
}

/// Has nothing to do, as there are no levels.
#[derive(Debug)]
pub(super) struct Encoder;

impl Encoder {
    pub(super) fn new(_: impl Iterator<Item = ZstdLevel>) -> Self {
        Self
    }

    pub(super) fn encode(&mut self, _: ZstdLevel, _: &[u8], _: &mut [u8]) -> Option<usize> {
        None
    }
}

/// Refuses all frames.
#[derive(Debug)]
pub(super) struct Decoder;

impl Decoder {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn decode(&mut self, _: &[u8], _: &mut [u8]) -> Result<usize, BlockError> {
        Err(BlockError::NoZstd)
    }
}
