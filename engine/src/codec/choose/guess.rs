//! Kinds of blocks, and what each codec is guessed to cost on them before anything is measured.

use super::class::ContentClass;
use crate::codec::Codec;

/// Blocks of fewer pages count as small: their set-up and their lack of history show.
const LARGE_PAGES: usize = 8;

/// Kinds of blocks: classes of content, small and large.
pub(super) const CELLS: usize = 2 * ContentClass::COUNT;

/// A kind of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell(usize);

impl Cell {
    /// A block of so many pages.
    pub(super) fn new(class: ContentClass, pages: usize) -> Self {
        let large = usize::from(pages >= LARGE_PAGES);
        Self(class.index() * 2 + large)
    }

    /// All of them, by index.
    pub(super) fn all() -> [Self; CELLS] {
        std::array::from_fn(Self)
    }

    /// An index, below [`CELLS`].
    pub(super) fn index(self) -> usize {
        self.0
    }

    /// Whether its content is without order.
    pub(super) fn is_random(self) -> bool {
        self.0 / 2 == ContentClass::RANDOM.index()
    }

    fn is_large(self) -> bool {
        self.0 % 2 == 1
    }
}

/// What a codec costs and yields, by byte of pages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    /// Nanoseconds to pack a byte.
    pub(super) encode_ns: f64,
    /// Bytes on the wire for a byte.
    pub(super) wire: f64,
}

impl Estimate {
    /// Share of the bytes that is not sent.
    pub(super) fn saving(self) -> f64 {
        1.0 - self.wire
    }
}

/// Costs to begin with, between those of code and of heaps on one core of a Zen 5 server
/// (`docs/decisions/020-blocks-of-pages.md`).
pub(super) fn guess(codec: Codec, cell: Cell) -> Estimate {
    let (encode_ns, wire) = match codec {
        Codec::Raw => (0.0, 1.0),
        Codec::Lz4 => (1.25, 0.5),
        Codec::Zstd(level) => match level.get() {
            ..=-30 => (0.45, 0.78),
            -29..=-15 => (0.8, 0.64),
            -14..=-1 => (1.4, 0.47),
            0..=2 => (1.85, 0.38),
            3..=4 => (2.8, 0.36),
            5..=9 => (9.0, 0.35),
            10.. => (60.0, 0.33),
        },
    };
    let encode_ns = encode_ns
        * match (cell.is_random(), cell.is_large()) {
            (true, true) => 0.05,
            (true, false) => 0.25,
            (false, true) => 1.0,
            (false, false) => 1.5,
        };
    // Of a small block a sixth less is saved.
    let saving = (1.0 - wire) * if cell.is_large() { 1.0 } else { 5.0 / 6.0 };
    Estimate {
        encode_ns,
        wire: 1.0 - saving,
    }
}
