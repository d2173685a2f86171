//! How pages are carried, and which ways the two sides can agree on.

use super::WireError;
use super::reference::{MAX_REFERENCE_PAGES, REFERENCE_BYTES};
use crate::codec::{BlockFormat, Codec, CompressSetting, SAME_FILLED_BYTES};
use crate::units::PAGE_BYTES;

/// How the pages of a run are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Encoding {
    /// The pages hold only zeros; there is no data.
    Zero = 0,
    /// The data is the pages' content.
    Raw = 1,
    /// The data is what changed against the page's last content, in XBZRLE; one page.
    Delta = 2,
    /// The data is a word of 8 bytes, which fills the pages.
    SameFilled = 3,
    /// The data is an LZ4 block that holds these pages and those of the following
    /// [`More`](Self::More) runs.
    Lz4 = 4,
    /// As [`Lz4`](Self::Lz4), with frames of zstd.
    Zstd = 5,
    /// The pages go on in the block of the run before; there is no data.
    More = 6,
    /// The data is a [`Reference`](super::Reference) to content that the target has. Whether it
    /// takes any is said apart from the [encodings](Encodings) that it reads.
    Reference = 7,
    /// The transport has put the pages into the target's memory before; there is no data. Only on a
    /// connection that can, which is why it is not among the [encodings](Encodings) that a side reads.
    Placed = 8,
}

impl Encoding {
    const ALL: [Self; 9] = [
        Self::Zero,
        Self::Raw,
        Self::Delta,
        Self::SameFilled,
        Self::Lz4,
        Self::Zstd,
        Self::More,
        Self::Reference,
        Self::Placed,
    ];

    pub(super) fn from_wire(value: u16) -> Result<Self, WireError> {
        let known = Self::ALL.into_iter().find(|known| *known as u16 == value);
        known.ok_or_else(|| WireError::BadValue {
            what: "page encoding",
            value: value.into(),
        })
    }

    /// Whether a run of this encoding begins a block.
    pub fn is_block(self) -> bool {
        matches!(self, Self::Lz4 | Self::Zstd)
    }

    /// Whether `bytes` can be the data of a run of `pages` pages. For blocks, `pages` is that of
    /// the whole block: packing never makes it longer.
    pub(super) fn fits(self, pages: u64, bytes: u64) -> bool {
        let content = pages * PAGE_BYTES as u64;
        match self {
            Self::Zero | Self::More | Self::Placed => bytes == 0,
            Self::Raw => bytes == content,
            Self::Delta => pages == 1 && (1..=content).contains(&bytes),
            Self::SameFilled => bytes == SAME_FILLED_BYTES as u64,
            Self::Reference => {
                pages <= MAX_REFERENCE_PAGES as u64 && bytes == REFERENCE_BYTES as u64
            }
            Self::Lz4 | Self::Zstd => (1..=content).contains(&bytes),
        }
    }
}

impl From<BlockFormat> for Encoding {
    fn from(format: BlockFormat) -> Self {
        match format {
            BlockFormat::Lz4 => Self::Lz4,
            BlockFormat::Zstd => Self::Zstd,
        }
    }
}

/// A set of encodings, as the handshake carries it: bit `n` stands for encoding number `n`.
///
/// Bits of encodings that this build does not know are kept: they are a newer peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encodings(pub u32);

impl Encodings {
    /// What every build reads, and what a side means that says nothing.
    pub const BASIC: Self = Self::none()
        .with(Encoding::Zero)
        .with(Encoding::Raw)
        .with(Encoding::Delta);

    /// No encoding.
    pub const fn none() -> Self {
        Self(0)
    }

    /// What this build reads.
    pub const fn readable() -> Self {
        let set = Self::BASIC
            .with(Encoding::SameFilled)
            .with(Encoding::Lz4)
            .with(Encoding::More);
        if cfg!(feature = "zstd") {
            set.with(Encoding::Zstd)
        } else {
            set
        }
    }

    /// What a source must use for `setting`, next to the basic encodings.
    pub fn needed_by(setting: CompressSetting) -> Self {
        let format = setting.fixed().and_then(Codec::format);
        format.map_or(Self::none(), |format| {
            Self::none().with(format.into()).with(Encoding::More)
        })
    }

    /// This set, and `encoding`.
    #[must_use]
    pub const fn with(self, encoding: Encoding) -> Self {
        Self(self.0 | 1 << encoding as u16)
    }

    /// This set, without `encoding`.
    #[must_use]
    pub const fn without(self, encoding: Encoding) -> Self {
        Self(self.0 & !(1 << encoding as u16))
    }

    /// Whether `encoding` is in the set.
    pub const fn contains(self, encoding: Encoding) -> bool {
        self.0 & 1 << encoding as u16 != 0
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub const fn beyond(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_format_and_the_next_is_free() {
        for (number, encoding) in (0..).zip(Encoding::ALL) {
            assert_eq!(encoding as u16, number);
            assert_eq!(Encoding::from_wire(number), Ok(encoding));
        }
        assert!(Encoding::from_wire(9).is_err());
    }

    #[test]
    fn sets_tell_what_is_missing() {
        let all = Encodings::readable();
        assert!(all.contains(Encoding::Lz4));
        assert_eq!(all.contains(Encoding::Zstd), cfg!(feature = "zstd"));
        let needs = Encodings::none().with(Encoding::Zstd).with(Encoding::More);
        let missing = needs.beyond(all.without(Encoding::Zstd));
        assert!(missing.contains(Encoding::Zstd) && !missing.contains(Encoding::More));
        assert!(Encodings::BASIC.beyond(all).is_empty());
    }
}
