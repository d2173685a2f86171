//! Guest memory in shared files: memfd, tmpfs, hugetlbfs, or a plain file.
//!
//! Everything goes through system calls on the file and not through a mapping: reading a hole
//! then populates nothing, a truncated file is an error and not a SIGBUS, and so is a full tmpfs.
//! Placing fresh pages is also cheaper that way: pwrite took 0.29 s per GiB where populating a
//! mapping and copying took 0.65 s, because it does not clear a page that it fills nor enter it
//! into page tables. (Reading pages that are there costs 0.10 s per GiB, against 0.035 s from a
//! mapping that was faulted in before for 0.10 s.) Hugetlbfs has no write(2): see [`hugetlb`].
//!
//! Holes: those of tmpfs are found with SEEK_DATA; hugetlbfs cannot tell, so there every page
//! counts as populated, and holes read as zeros.

mod hugetlb;
mod mark;
mod place;
mod region;

pub use place::RegionFile;

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;

use memmap2::MmapRaw;

use self::hugetlb::huge_page_bytes;
use self::region::FileRegion;
use super::capability::{DiscardPages, FindData, InFiles, PlaceAbsent};
use super::identity::KnownFile;
use super::mark::{Mark, PlacedMark};
use super::{GuestMemory, Layout, MemoryError, PageBitmap, ReadPages, Region, Span};
use crate::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex, PageRange};

/// The memory of a guest whose regions are in files.
#[derive(Debug)]
pub struct FileMemory {
    layout: Layout,
    regions: Vec<FileRegion>,
    /// Each file once, with the first region that is in it.
    files: Vec<(KnownFile, usize)>,
}

impl FileMemory {
    /// All of `file`, as one region named `ram`.
    ///
    /// # Errors
    /// When its length is unknown, zero or no multiple of [`PAGE_BYTES`], or as for
    /// [`new`](Self::new).
    pub fn whole(file: File) -> Result<Self, MemoryError> {
        let name = "ram".to_owned();
        let size = || -> io::Result<(u64, Option<usize>)> {
            let bytes = file.metadata()?.len();
            if bytes % PAGE_BYTES as u64 != 0 {
                let what = format!("its {bytes} bytes are no whole pages of {PAGE_BYTES}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
            Ok((bytes, huge_page_bytes(&file)?))
        };
        let (bytes, huge) = size().map_err(|source| MemoryError::Io {
            action: "open",
            region: name.clone(),
            offset: 0,
            source,
        })?;
        let region = Region {
            name,
            pages: PageCount(bytes / PAGE_BYTES as u64),
            backing_page: ByteCount(huge.unwrap_or(PAGE_BYTES) as u64),
        };
        let layout = Layout::new(vec![region])?;
        Self::new(layout, vec![RegionFile { file, offset: 0 }])
    }

    /// The regions of `layout`, in the same order, in `files`.
    ///
    /// # Errors
    /// When a file is shorter than its region, or on hugetlbfs cannot be mapped.
    ///
    /// # Panics
    /// If there is not one file for each region.
    pub fn new(layout: Layout, files: Vec<RegionFile>) -> Result<Self, MemoryError> {
        assert_eq!(
            layout.regions().len(),
            files.len(),
            "one file for each region"
        );
        let mut regions = Vec::with_capacity(files.len());
        let mut known: Vec<(KnownFile, usize)> = Vec::with_capacity(files.len());
        for (number, place) in files.into_iter().enumerate() {
            let len_bytes = layout.regions()[number].pages.bytes().0;
            let name = layout.regions()[number].name.clone();
            let refused = |source| layout.refused("open", number, 0, source);
            let file = KnownFile::of(name, &place.file).map_err(refused)?;
            if !known.iter().any(|(known, _)| known.is(&file)) {
                known.push((file, number));
            }
            regions.push(FileRegion::open(place, len_bytes).map_err(refused)?);
        }
        Ok(Self {
            layout,
            regions,
            files: known,
        })
    }

    /// Maps each region into this process, for reading and writing.
    pub(super) fn map_regions(&self) -> Result<Vec<MmapRaw>, MemoryError> {
        let regions = self.regions.iter().enumerate();
        let maps = regions.map(|(number, region)| {
            let map = region.map(self.layout.regions()[number].pages.bytes().0);
            map.map_err(|source| self.layout.refused("map", number, 0, source))
        });
        maps.collect()
    }

    /// Whether a region of it is in the file of which this is the metadata.
    pub fn is_in(&self, file: &Metadata) -> bool {
        let same = |own: &FileRegion| {
            let own = own.file().metadata();
            own.is_ok_and(|own| (own.dev(), own.ino()) == (file.dev(), file.ino()))
        };
        self.regions.iter().any(same)
    }

    /// Does `what` with each span of `range`.
    fn for_each_span(
        &self,
        action: &'static str,
        range: PageRange,
        mut what: impl FnMut(&FileRegion, Span) -> io::Result<()>,
    ) -> Result<(), MemoryError> {
        for span in self.layout.checked_spans(range)? {
            what(&self.regions[span.region], span).map_err(|source| {
                self.layout
                    .refused(action, span.region, span.offset, source)
            })?;
        }
        Ok(())
    }
}

impl ReadPages for FileMemory {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        for (span, piece) in self.layout.pieces_mut(range, out)? {
            self.regions[span.region]
                .read(span.offset, piece)
                .map_err(|source| {
                    self.layout
                        .refused("read", span.region, span.offset, source)
                })?;
        }
        Ok(())
    }

    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError> {
        for (number, region) in self.regions.iter().enumerate() {
            let found = region.for_each_data(0, self.layout.region_range(number), |run| {
                into.insert(run);
            });
            let action = "find the populated pages of";
            found.map_err(|source| self.layout.refused(action, number, 0, source))?;
        }
        Ok(())
    }

    fn in_files(&self) -> Option<&dyn InFiles> {
        Some(self)
    }

    fn find_data(&self) -> Option<&dyn FindData> {
        Some(self)
    }
}

impl FindData for FileMemory {
    fn tells_data(&self, pages: PageRange) -> bool {
        let span = self.layout.spans(pages).next();
        span.is_some_and(|span| span.range == pages && self.regions[span.region].tells_data())
    }

    fn first_data(&self, pages: PageRange) -> Result<Option<PageIndex>, MemoryError> {
        let mut first = None;
        self.for_each_span("find data of", pages, |region, span| {
            let found = region.first_data(span.offset, span.range.bytes().0)?;
            let page =
                |offset: u64| span.range.first.0 + (offset - span.offset) / PAGE_BYTES as u64;
            first = found.map(|offset| PageIndex(page(offset)));
            Ok(())
        })?;
        Ok(first)
    }

    fn for_each_data(
        &self,
        pages: PageRange,
        found: &mut dyn FnMut(PageRange),
    ) -> Result<(), MemoryError> {
        self.for_each_span("find data of", pages, |region, span| {
            region.for_each_data(span.offset, span.range, &mut *found)
        })
    }
}

impl InFiles for FileMemory {
    fn files(&self) -> Vec<KnownFile> {
        self.files.iter().map(|(file, _)| file.clone()).collect()
    }

    fn place_mark(&self, file: usize, word: u64) -> Result<Box<dyn PlacedMark>, MemoryError> {
        mark::place(&self.layout, &self.regions, self.files[file].1, word)
    }

    fn shows(&self, mark: Mark) -> Result<bool, MemoryError> {
        mark::shows(&self.layout, &self.regions, mark)
    }
}

impl GuestMemory for FileMemory {
    fn write(&self, first: PageIndex, data: &[u8]) -> Result<(), MemoryError> {
        for (span, piece) in self.layout.pieces(first, data)? {
            self.regions[span.region]
                .write(span.offset, piece)
                .map_err(|source| {
                    self.layout
                        .refused("write", span.region, span.offset, source)
                })?;
        }
        Ok(())
    }

    fn write_zeros(&self, range: PageRange) -> Result<(), MemoryError> {
        self.for_each_span("zero", range, |region, span| {
            region.write_zeros(span.offset, span.range.bytes().0)
        })
    }

    fn place_absent(&self) -> Option<&dyn PlaceAbsent> {
        let tells = self.regions.iter().all(FileRegion::tells_absent);
        tells.then_some(self)
    }

    fn discard_pages(&self) -> Option<&dyn DiscardPages> {
        Some(self)
    }
}

impl PlaceAbsent for FileMemory {
    fn place(&self, first: PageIndex, data: &[u8]) -> Result<PageCount, MemoryError> {
        let mut pages = PageCount(0);
        for (span, piece) in self.layout.pieces(first, data)? {
            let placed = self.regions[span.region].place_absent(span.offset, piece);
            let refused = |source| {
                let Span { region, offset, .. } = span;
                self.layout.refused("write", region, offset, source)
            };
            pages += placed.map_err(refused)?;
        }
        Ok(pages)
    }
}

impl DiscardPages for FileMemory {
    fn discard(&self, range: PageRange) -> Result<(), MemoryError> {
        self.for_each_span("discard", range, |region, span| {
            region.discard(span.offset, span.range.bytes().0)
        })
    }
}
