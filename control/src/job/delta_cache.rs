//! The size of the delta cache: the memory for old contents that deltas are made against.

use std::str::FromStr;

use pagelift_engine::pipeline::Deltas;
use pagelift_engine::units::{ByteCount, PageCount};

/// Part of the available memory that `auto` takes at most: one of so many.
const OF_AVAILABLE: u64 = 8;

/// What `auto` takes where the available memory is not known.
const UNKNOWN: ByteCount = ByteCount(128 << 20);

/// The size that a user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaCacheSize {
    /// What the guest needs, within what the machine can spare.
    Auto,
    /// This many bytes.
    Bytes(ByteCount),
}

impl FromStr for DeltaCacheSize {
    type Err = <ByteCount as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            size => size.parse().map(Self::Bytes),
        }
    }
}

impl DeltaCacheSize {
    /// The budget for a guest of `pages` pages.
    pub fn for_guest(self, pages: PageCount) -> ByteCount {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Auto => {
                let spare = available().map_or(UNKNOWN, |all| ByteCount(all.0 / OF_AVAILABLE));
                spare.min(Deltas::room_for_all(pages))
            }
        }
    }
}

/// Memory that can be had without swapping (`MemAvailable`, proc_meminfo(5)).
fn available() -> Option<ByteCount> {
    available_in(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_in(meminfo: &str) -> Option<ByteCount> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteCount(kib * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_or_auto() {
        assert_eq!("auto".parse(), Ok(DeltaCacheSize::Auto));
        let size = DeltaCacheSize::Bytes(ByteCount(64 << 20));
        assert_eq!("64MiB".parse(), Ok(size));
        assert_eq!(size.for_guest(PageCount(1)), ByteCount(64 << 20));
        assert!("a lot".parse::<DeltaCacheSize>().is_err());
    }

    #[test]
    fn auto_is_no_more_than_the_guest_needs() {
        let pages = PageCount(1000);
        let bytes = DeltaCacheSize::Auto.for_guest(pages);
        assert!(bytes <= Deltas::room_for_all(pages));
        assert!(bytes > ByteCount(0));
    }

    #[test]
    fn memory_available_is_read() {
        let text = "MemTotal:       24620684 kB\nMemAvailable:   23080280 kB\n";
        assert_eq!(available_in(text), Some(ByteCount(23_080_280 * 1024)));
        assert_eq!(available_in("MemTotal: 1 kB\n"), None);
    }
}
