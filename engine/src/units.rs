//! Quantities with their units: page numbers, byte counts, rates and instants.
//!
//! Modules of the engine exchange these and never bare integers, so that a page number cannot
//! be passed for a byte offset. All of them are plain 64-bit values; arithmetic that could
//! overflow saturates, because each is a measurement or is bounded by an agreed layout.
//!
//! The text forms (`1GiB`, `100MiB/s`, `1Gbit/s`, `50ms`) are those of the command line. They
//! live here because the same words appear in reports and messages.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Size of a page in bytes: the unit of dirty tracking and of transfer.
///
/// Guests backed by huge pages are tracked by the kernel in larger units, but are described,
/// sent and placed in pages of this size.
pub const PAGE_BYTES: usize = 4096;

/// Number of a page in a [`Layout`](crate::memory::Layout): its regions, one after the other.
///
/// This is not a guest frame number: holes between regions are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

/// A number of pages of [`PAGE_BYTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageCount(pub u64);

impl PageCount {
    /// The bytes that many pages hold.
    pub fn bytes(self) -> ByteCount {
        ByteCount(self.0.saturating_mul(PAGE_BYTES as u64))
    }
}

impl std::ops::AddAssign for PageCount {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

/// Consecutive pages: `count` pages from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// The first page.
    pub first: PageIndex,
    /// How many pages; may be zero.
    pub count: PageCount,
}

impl PageRange {
    /// `count` pages from page number `first` on.
    pub fn new(first: u64, count: u64) -> Self {
        Self {
            first: PageIndex(first),
            count: PageCount(count),
        }
    }

    /// The number of the first page after the range.
    pub fn end(self) -> u64 {
        self.first.0.saturating_add(self.count.0)
    }

    /// The page numbers in the range.
    pub fn indices(self) -> std::ops::Range<u64> {
        self.first.0..self.end()
    }

    /// Bytes the range covers.
    pub fn bytes(self) -> ByteCount {
        self.count.bytes()
    }

    /// Bytes the range covers, as a length in memory.
    ///
    /// # Panics
    /// If it does not fit the address space, which no agreed layout allows.
    pub fn len_bytes(self) -> usize {
        usize::try_from(self.bytes().0).expect("a page range fits the address space")
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

impl ByteCount {
    /// The time these bytes need at `rate`; `None` at a rate of zero.
    pub fn time_at(self, rate: Rate) -> Option<Duration> {
        if rate.0 == 0 {
            return None;
        }
        Some(Duration::from_secs_f64(self.0 as f64 / rate.0 as f64))
    }
}

impl std::ops::Add for ByteCount {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl std::ops::AddAssign for ByteCount {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

/// A rate in bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub u64);

impl Rate {
    /// The rate of `bytes` moved in `time`; `None` when no time has passed.
    pub fn over(bytes: ByteCount, time: Duration) -> Option<Self> {
        let seconds = time.as_secs_f64();
        (seconds > 0.0).then(|| Self((bytes.0 as f64 / seconds) as u64))
    }

    /// The same rate in Mbit/s, the unit that network people use.
    pub fn mbit_per_s(self) -> f64 {
        self.0 as f64 * 8.0 / 1e6
    }
}

/// Nanoseconds since an origin that the caller chose: a migration's start, or a simulator's.
///
/// The engine's machines take the time as an argument and never read a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Time from `earlier` to this instant; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved on by `time`.
    pub fn after(self, time: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

/// Why a text is not a quantity: the text and what would be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}; write it as {example}")]
pub struct ParseQuantityError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// Splits `text` into its number and its unit, both trimmed.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

/// Bytes in one binary or decimal unit, `""` and `"B"` meaning bytes.
fn byte_unit(unit: &str) -> Option<f64> {
    Some(match unit {
        "" | "B" => 1.0,
        "KiB" | "K" | "k" => 1024.0,
        "MiB" | "M" => 1024.0 * 1024.0,
        "GiB" | "G" => 1024.0 * 1024.0 * 1024.0,
        "TiB" | "T" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => return None,
    })
}

/// Bits in one unit of a line rate (`Gbit/s` without the `/s`).
fn bit_unit(unit: &str) -> Option<f64> {
    Some(match unit {
        "bit" => 1.0,
        "kbit" => 1e3,
        "Mbit" => 1e6,
        "Gbit" => 1e9,
        _ => return None,
    })
}

impl FromStr for ByteCount {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        number_and_unit(text)
            .and_then(|(number, unit)| byte_unit(unit).map(|bytes| Self((number * bytes) as u64)))
            .ok_or_else(|| ParseQuantityError {
                text: text.to_owned(),
                what: "size",
                example: "512MiB or 1GiB",
            })
    }
}

impl FromStr for Rate {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        number_and_unit(text)
            .and_then(|(number, unit)| {
                let unit = unit.strip_suffix("/s")?;
                let bytes = byte_unit(unit).or_else(|| bit_unit(unit).map(|bits| bits / 8.0))?;
                Some(Self((number * bytes) as u64))
            })
            .ok_or_else(|| ParseQuantityError {
                text: text.to_owned(),
                what: "rate",
                example: "100MiB/s or 1Gbit/s",
            })
    }
}

/// Longest time span that is taken from a text: ten years, beyond which sums might overflow.
pub(crate) const LONGEST_SPAN: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Parses a time span: `50ms`, `2s`, `10m`, `1h`, `250us`; at most ten years.
///
/// # Errors
/// When the number or the unit is missing or unknown, or the time is longer.
pub fn parse_duration(text: &str) -> Result<Duration, ParseQuantityError> {
    number_and_unit(text)
        .and_then(|(number, unit)| {
            let seconds = match unit {
                "us" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
            let time = Duration::try_from_secs_f64(number * seconds).ok();
            time.filter(|time| *time <= LONGEST_SPAN)
        })
        .ok_or_else(|| ParseQuantityError {
            text: text.to_owned(),
            what: "time span",
            example: "50ms, 2s or 10m",
        })
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        for (unit, size) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            let size = (1u64 << size) as f64;
            if bytes >= size {
                return write!(f, "{:.1} {unit}", bytes / size);
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", ByteCount(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_take_the_units_of_the_command_line() {
        assert_eq!("1GiB".parse(), Ok(ByteCount(1 << 30)));
        assert_eq!("1.5 MiB".parse(), Ok(ByteCount(3 << 19)));
        assert_eq!("2MB".parse(), Ok(ByteCount(2_000_000)));
        assert_eq!("1Gbit/s".parse(), Ok(Rate(125_000_000)));
        assert_eq!("100MiB/s".parse(), Ok(Rate(100 << 20)));
        assert_eq!(parse_duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
    }

    #[test]
    fn an_unknown_unit_names_the_text_and_the_way_out() {
        let error = "1Gb".parse::<Rate>().unwrap_err().to_string();
        assert_eq!(
            error,
            r#""1Gb" is not a rate; write it as 100MiB/s or 1Gbit/s"#
        );
        assert!("GiB".parse::<ByteCount>().is_err());
        assert!("-1GiB".parse::<ByteCount>().is_err());
        assert!(parse_duration("50").is_err());
        assert!(parse_duration("87600h").is_ok());
        assert!(parse_duration("99999999h").is_err());
    }

    #[test]
    fn sizes_are_shown_in_the_largest_binary_unit() {
        assert_eq!(ByteCount(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteCount(12).to_string(), "12 B");
        assert_eq!(Rate(100 << 20).to_string(), "100.0 MiB/s");
    }
}
