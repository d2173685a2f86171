//! A guest of any size of which little is populated.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use anyhow::{Result, ensure};
use pagelift_bench::memory::{Mapping, memfd};
use pagelift_engine::GuestRam;
use pagelift_engine::units::{ByteCount, PAGE_BYTES};

/// Bytes of an area that is populated as a whole.
const AREA_BYTES: usize = 2 << 20;

/// Where the populated memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// At the beginning.
    Contiguous,
    /// In areas of 2 MiB, equally far apart.
    Scattered,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Contiguous => "contiguous",
            Self::Scattered => "scattered",
        })
    }
}

/// Memory in a file, mapped.
pub(crate) struct Guest {
    pub(crate) size: ByteCount,
    pub(crate) pattern: Pattern,
    pub(crate) file: File,
    pub(crate) mapping: Arc<Mapping>,
    areas: usize,
}

impl Guest {
    /// A guest of `size` with `populated` bytes that are populated, or all it has if that is less.
    pub(crate) fn new(size: ByteCount, populated: ByteCount, pattern: Pattern) -> Result<Self> {
        let len = usize::try_from(size.0)?;
        ensure!(len % AREA_BYTES == 0, "sizes are multiples of 2 MiB");
        let file = memfd(len);
        let mapping = Arc::new(Mapping::of(&file, len));
        let areas = len.min(usize::try_from(populated.0)?) / AREA_BYTES;
        let guest = Self {
            size,
            pattern,
            file,
            mapping,
            areas,
        };
        for page in 0..guest.pages() {
            // Content that packs to half of its size, as that of guests does.
            for word in 0..PAGE_BYTES / 16 {
                let noise = (page * 31 + word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                guest
                    .mapping
                    .poke(guest.offset(page) + word * 16, noise.to_le_bytes()[5]);
            }
        }
        Ok(guest)
    }

    /// Pages that are populated.
    pub(crate) fn pages(&self) -> usize {
        self.areas * AREA_BYTES / PAGE_BYTES
    }

    /// Where populated page number `page` is.
    pub(crate) fn offset(&self, page: usize) -> usize {
        const PER_AREA: usize = AREA_BYTES / PAGE_BYTES;
        let (area, within) = (page / PER_AREA, page % PER_AREA);
        let apart = match self.pattern {
            Pattern::Contiguous => AREA_BYTES,
            Pattern::Scattered => {
                let all = self.size.0 as usize / AREA_BYTES;
                all / self.areas * AREA_BYTES
            }
        };
        area * apart + within * PAGE_BYTES
    }

    /// It as the engine takes it.
    pub(crate) fn ram(&self) -> Result<GuestRam> {
        let address = self.mapping.address() as usize;
        let address = std::ptr::with_exposed_provenance(address);
        Ok(GuestRam::from_file(self.file.try_clone()?, address)?)
    }
}

/// A figure of this process, in MiB; see proc_pid_status(5).
pub(crate) fn own_mib(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
