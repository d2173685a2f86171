//! Which codecs may be used, as the operator says it: `auto`, `none`, `lz4`, `zstd[:LEVEL]`,
//! `xbzrle`.

use std::fmt;
use std::str::FromStr;

/// Lowest and highest level of zstd that may be asked for.
///
/// Below -50 the level gives next to no compression; from 20 on a level only differs for inputs
/// far larger than a batch of pages.
const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = -50..=19;

/// A level of zstd, `-50..=-1` (fast) or `1..=19`. A build without zstd has no values of this
/// type, so whatever holds one can compress with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZstdLevel(Level);

#[cfg(feature = "zstd")]
type Level = i32;
#[cfg(not(feature = "zstd"))]
type Level = std::convert::Infallible;

impl ZstdLevel {
    /// The level that `zstd` alone means: on batches of pages it packs far better than `lz4`
    /// at three quarters of its speed (`docs/decisions/020-blocks-of-pages.md`).
    pub const DEFAULT: i32 = 1;

    /// A level.
    ///
    /// # Errors
    /// When the level is out of range, or this build has no zstd.
    pub fn new(level: i32) -> Result<Self, ParseCompressError> {
        if level == 0 || !ZSTD_LEVELS.contains(&level) {
            return Err(ParseCompressError::Level(level.to_string()));
        }
        Self::available(level)
    }

    #[cfg(feature = "zstd")]
    fn available(level: i32) -> Result<Self, ParseCompressError> {
        Ok(Self(level))
    }

    #[cfg(not(feature = "zstd"))]
    fn available(_: i32) -> Result<Self, ParseCompressError> {
        Err(ParseCompressError::NoZstd)
    }

    /// The level as a number.
    #[cfg(feature = "zstd")]
    pub fn get(self) -> i32 {
        self.0
    }

    /// The level as a number, of which there is none without zstd.
    #[cfg(not(feature = "zstd"))]
    pub fn get(self) -> i32 {
        match self.0 {}
    }
}

/// A way to carry the pages of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As they are.
    Raw,
    /// One LZ4 block.
    Lz4,
    /// One zstd frame.
    Zstd(ZstdLevel),
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw => f.write_str("none"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd(level) => write!(f, "zstd:{}", level.get()),
        }
    }
}

/// What `--compress` says. Zero pages and pages of one repeated word are always carried as
/// such: that costs less than sending them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CompressSetting {
    /// Whatever is fastest, found for each block by what codecs, link and processors do; pages
    /// that are sent again go as the difference to what was sent before, where that is short.
    #[default]
    Auto,
    /// The same for every block; [`Codec::Raw`] is written `none`.
    Fixed(Codec),
    /// Pages that are sent again as the difference to what was sent before, all others raw.
    Xbzrle,
}

impl CompressSetting {
    /// Whether pages that are sent again may go as the difference to what was sent before.
    pub fn wants_deltas(self) -> bool {
        matches!(self, Self::Auto | Self::Xbzrle)
    }

    /// The codec that it asks for by name.
    pub fn fixed(self) -> Option<Codec> {
        match self {
            Self::Fixed(codec) => Some(codec),
            Self::Auto | Self::Xbzrle => None,
        }
    }
}

/// Why a text is no [`CompressSetting`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseCompressError {
    /// No such codec.
    #[error(
        "{0:?} is not a way to compress; \
         write auto, none, lz4, zstd, zstd:LEVEL or xbzrle"
    )]
    Unknown(String),
    /// No such level.
    #[error(
        "{0:?} is not a level of zstd; \
         write zstd:-50 (fastest) to zstd:-1, or zstd:1 to zstd:19 (smallest)"
    )]
    Level(String),
    /// Only zstd has levels.
    #[error("{0} has no levels; write {0} alone, or zstd:LEVEL")]
    NoLevels(String),
    /// The feature is off.
    #[error(
        "this build has no zstd; \
         use lz4, or build pagelift with its feature `zstd` and a C compiler"
    )]
    NoZstd,
}

impl FromStr for CompressSetting {
    type Err = ParseCompressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let setting = match name {
            "auto" => Self::Auto,
            "none" => Self::Fixed(Codec::Raw),
            "lz4" => Self::Fixed(Codec::Lz4),
            "xbzrle" => Self::Xbzrle,
            "zstd" => {
                let level = level.map_or(Ok(ZstdLevel::DEFAULT), |level| {
                    level
                        .parse()
                        .map_err(|_| ParseCompressError::Level(level.to_owned()))
                });
                return Ok(Self::Fixed(Codec::Zstd(ZstdLevel::new(level?)?)));
            }
            _ => return Err(ParseCompressError::Unknown(text.to_owned())),
        };
        if level.is_some() {
            return Err(ParseCompressError::NoLevels(name.to_owned()));
        }
        Ok(setting)
    }
}

impl fmt::Display for CompressSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(codec) => codec.fmt(f),
            Self::Xbzrle => f.write_str("xbzrle"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CompressSetting, String> {
        text.parse()
            .map_err(|error: ParseCompressError| error.to_string())
    }

    #[test]
    fn what_is_shown_is_what_was_written() {
        for text in ["auto", "none", "lz4", "xbzrle"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(CompressSetting::default().to_string(), "auto");
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn zstd_takes_its_levels() {
        for text in ["zstd:-50", "zstd:-1", "zstd:1", "zstd:19"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("zstd").unwrap().to_string(), "zstd:1");
        for level in ["0", "20", "-51", "fast", "", "99999999999"] {
            let text = format!("zstd:{level}");
            assert_eq!(
                parse(&text).unwrap_err(),
                format!(
                    "{level:?} is not a level of zstd; \
                     write zstd:-50 (fastest) to zstd:-1, or zstd:1 to zstd:19 (smallest)"
                )
            );
        }
    }

    #[cfg(not(feature = "zstd"))]
    #[test]
    fn a_build_without_zstd_says_so() {
        let error = parse("zstd:3").unwrap_err();
        assert!(
            error.starts_with("this build has no zstd; use lz4"),
            "{error}"
        );
        assert!(parse("zstd:77").unwrap_err().contains("not a level"));
    }

    #[test]
    fn an_error_names_the_text_and_the_way_out() {
        assert_eq!(
            parse("gzip:3").unwrap_err(),
            "\"gzip:3\" is not a way to compress; \
             write auto, none, lz4, zstd, zstd:LEVEL or xbzrle"
        );
        assert_eq!(
            parse("lz4:3").unwrap_err(),
            "lz4 has no levels; write lz4 alone, or zstd:LEVEL"
        );
        assert!(parse("").is_err());
        assert!(parse("LZ4").is_err());
    }
}
