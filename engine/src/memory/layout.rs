//! The shape of a guest's memory: named regions, one after the other.

use crate::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex, PageRange};

/// Most regions a layout may have; a limit for what a peer can make us allocate.
pub const MAX_REGIONS: usize = 1024;

/// Longest name of a region, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Most memory a layout may describe: 64 TiB, so that page arithmetic cannot overflow.
const MAX_PAGES: u64 = (64 << 40) / PAGE_BYTES as u64;

/// One contiguous piece of guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Name both sides know it by; unique in a layout.
    pub name: String,
    /// Its length; never zero.
    pub pages: PageCount,
    /// Bytes of one page of the memory behind it: 4096, or a huge page's size.
    ///
    /// Both sides may differ in it; it is a hint for placing, not for addressing.
    pub backing_page: ByteCount,
}

/// The regions of a guest, in an order that both sides keep.
///
/// Pages are numbered through all regions: page 0 is the first page of the first region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    regions: Vec<Region>,
    /// Number of the first page of each region.
    bases: Vec<u64>,
    pages: PageCount,
}

/// Why a list of regions is no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// There is nothing to migrate.
    #[error("the guest has no memory region")]
    Empty,
    /// More than [`MAX_REGIONS`].
    #[error("{0} memory regions; at most {MAX_REGIONS} are supported")]
    TooManyRegions(usize),
    /// A name is empty, too long, or used twice.
    #[error(
        "memory region {0:?}: its name is empty, longer than {MAX_NAME_BYTES} bytes, or not unique"
    )]
    BadName(String),
    /// A region or the sum of all is empty or too large.
    #[error("memory region {0:?} is empty, or too large")]
    BadSize(String),
}

/// A run of pages inside one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Position of the region in [`Layout::regions`].
    pub region: usize,
    /// Byte offset of the first page inside the region.
    pub offset: u64,
    /// The pages, numbered through the layout.
    pub range: PageRange,
}

impl Layout {
    /// Puts `regions` one after the other.
    ///
    /// # Errors
    /// When there is none or too many, or a name or size is unusable.
    pub fn new(regions: Vec<Region>) -> Result<Self, LayoutError> {
        if regions.is_empty() {
            return Err(LayoutError::Empty);
        }
        if regions.len() > MAX_REGIONS {
            return Err(LayoutError::TooManyRegions(regions.len()));
        }
        let mut names = std::collections::HashSet::new();
        let mut bases = Vec::with_capacity(regions.len());
        let mut pages = 0u64;
        for region in &regions {
            let name_fits = !region.name.is_empty() && region.name.len() <= MAX_NAME_BYTES;
            if !name_fits || !names.insert(region.name.as_str()) {
                return Err(LayoutError::BadName(region.name.clone()));
            }
            bases.push(pages);
            pages = pages
                .checked_add(region.pages.0)
                .filter(|sum| region.pages.0 > 0 && *sum <= MAX_PAGES)
                .ok_or_else(|| LayoutError::BadSize(region.name.clone()))?;
        }
        drop(names);
        Ok(Self {
            regions,
            bases,
            pages: PageCount(pages),
        })
    }

    /// The regions in order.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Pages of all regions together.
    pub fn pages(&self) -> PageCount {
        self.pages
    }

    /// Whether `range` lies within the layout.
    pub fn contains(&self, range: PageRange) -> bool {
        range
            .first
            .0
            .checked_add(range.count.0)
            .is_some_and(|end| end <= self.pages.0)
    }

    /// The pages of region number `region`.
    pub fn region_range(&self, region: usize) -> PageRange {
        PageRange {
            first: PageIndex(self.bases[region]),
            count: self.regions[region].pages,
        }
    }

    /// Splits `range` where regions meet. Pages beyond the layout are left out.
    pub fn spans(&self, range: PageRange) -> impl Iterator<Item = Span> + '_ {
        let end = range.end().min(self.pages.0);
        let mut at = range.first.0;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let region = self.bases.partition_point(|base| *base <= at) - 1;
            let stop = end.min(self.bases[region] + self.regions[region].pages.0);
            let span = Span {
                region,
                offset: (at - self.bases[region]) * PAGE_BYTES as u64,
                range: PageRange::new(at, stop - at),
            };
            at = stop;
            Some(span)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str, pages: u64) -> Region {
        Region {
            name: name.into(),
            pages: PageCount(pages),
            backing_page: ByteCount(4096),
        }
    }

    #[test]
    fn spans_split_where_regions_meet_and_cover_every_page_once() {
        let layout = Layout::new(vec![region("a", 3), region("b", 1), region("c", 5)]).unwrap();
        assert_eq!(layout.pages(), PageCount(9));
        for first in 0..9 {
            for count in 0..=(9 - first) {
                let spans: Vec<_> = layout.spans(PageRange::new(first, count)).collect();
                let pages: Vec<u64> = spans.iter().flat_map(|s| s.range.indices()).collect();
                assert_eq!(pages, (first..first + count).collect::<Vec<_>>());
                for span in spans {
                    let base = layout.region_range(span.region);
                    assert_eq!(span.offset, (span.range.first.0 - base.first.0) * 4096);
                    assert!(span.range.end() <= base.end());
                }
            }
        }
    }

    #[test]
    fn a_range_that_wraps_is_not_contained() {
        let layout = Layout::new(vec![region("a", 3)]).unwrap();
        assert!(layout.contains(PageRange::new(0, 3)));
        assert!(!layout.contains(PageRange::new(1, 3)));
        assert!(!layout.contains(PageRange::new(u64::MAX, 2)));
    }

    #[test]
    fn unusable_regions_are_refused_by_name() {
        assert_eq!(Layout::new(vec![]), Err(LayoutError::Empty));
        let twice = Layout::new(vec![region("a", 1), region("a", 1)]);
        assert_eq!(twice, Err(LayoutError::BadName("a".into())));
        let empty = Layout::new(vec![region("a", 0)]);
        assert_eq!(empty, Err(LayoutError::BadSize("a".into())));
        let huge = Layout::new(vec![region("a", MAX_PAGES), region("b", 1)]);
        assert_eq!(huge, Err(LayoutError::BadSize("b".into())));
    }
}
