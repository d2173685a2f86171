//! Costs that each codec is taken to have before anything is measured.

use super::class::BlockClass;
use crate::codec::Codec;

/// Processor time and bytes for a byte of pages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figures {
    /// Nanoseconds to pack it.
    pub(super) encode_ns: f64,
    /// Nanoseconds to unpack it, on the target.
    pub(super) decode_ns: f64,
    /// Bytes on the wire.
    pub(super) wire: f64,
}

impl Figures {
    /// Share of the bytes that is not sent.
    pub(super) fn saving(self) -> f64 {
        1.0 - self.wire
    }
}

/// Figures between those of code and of heaps on one core of a Zen 5 server
/// (`docs/decisions/020-blocks-of-pages.md`). Content without order is passed over quickly.
pub(super) fn prior(codec: Codec, class: BlockClass) -> Figures {
    let (encode_ns, decode_ns, wire) = match codec {
        Codec::Raw => (0.0, 0.0, 1.0),
        Codec::Lz4 => (1.25, 0.35, 0.5),
        Codec::Zstd(level) => match level.get() {
            ..=-30 => (0.45, 0.2, 0.78),
            -29..=-15 => (0.8, 0.4, 0.64),
            -14..=-1 => (1.4, 0.6, 0.47),
            0..=2 => (1.85, 0.7, 0.38),
            3..=4 => (2.8, 0.7, 0.36),
            5..=9 => (9.0, 0.7, 0.35),
            10.. => (60.0, 0.7, 0.33),
        },
    };
    let passed_over = if class == BlockClass::RANDOM {
        0.05
    } else {
        1.0
    };
    Figures {
        encode_ns: encode_ns * passed_over,
        decode_ns,
        wire,
    }
}
