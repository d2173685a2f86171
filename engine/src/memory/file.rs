//! Guest memory in shared files: memfd, tmpfs, hugetlbfs, or a plain file.
//!
//! Everything goes through system calls on the file and not through a mapping: reading a hole
//! then populates nothing, a truncated file is an error and not a SIGBUS, and so is a full tmpfs.
//! Placing fresh pages is also cheaper that way: pwrite took 0.29 s per GiB where populating a
//! mapping and copying took 0.65 s, because it does not clear a page that it fills nor enter it
//! into page tables. (Reading pages that are there costs 0.10 s per GiB, against 0.035 s from a
//! mapping that was faulted in before for 0.10 s.) Hugetlbfs has no write(2): see [`HugeWriter`].
//!
//! Holes: those of tmpfs are found with SEEK_DATA; hugetlbfs cannot tell, so there every page
//! counts as populated, and holes read as zeros.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::hugetlb::{HugeWriter, huge_page_bytes};
use super::{GuestMemory, Layout, MemoryError, PageBitmap, ReadPages, Region, Span};
use crate::codec::is_zero;
use crate::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex, PageRange};

/// Where the memory of one region is.
#[derive(Debug)]
pub struct RegionFile {
    /// The file, opened for reading, and for writing on a target.
    pub file: File,
    /// Byte offset of the region in it; a multiple of the page size of its file system.
    pub offset: u64,
}

/// The memory of a guest whose regions are in files.
#[derive(Debug)]
pub struct FileMemory {
    layout: Layout,
    regions: Vec<OpenRegion>,
}

#[derive(Debug)]
struct OpenRegion {
    place: RegionFile,
    /// Where writing goes if the file is on hugetlbfs.
    huge: Option<HugeWriter>,
    /// Held while the file is written: its own lock lets one writer in at a time as well, but
    /// the others would spin for it (docs/decisions/012).
    turn: Mutex<()>,
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
        for (place, region) in files.into_iter().zip(layout.regions()) {
            let open = |place: RegionFile| -> io::Result<OpenRegion> {
                let len_bytes = region.pages.bytes().0;
                let file_bytes = place.file.metadata()?.len();
                if place
                    .offset
                    .checked_add(len_bytes)
                    .is_none_or(|end| end > file_bytes)
                {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!(
                            "the file has {file_bytes} bytes, and the region is {len_bytes} bytes \
                             from byte {} on",
                            place.offset
                        ),
                    ));
                }
                let huge = huge_page_bytes(&place.file)?
                    .map(|page_bytes| {
                        HugeWriter::new(&place.file, place.offset, len_bytes, page_bytes)
                    })
                    .transpose()?;
                Ok(OpenRegion {
                    place,
                    huge,
                    turn: Mutex::default(),
                })
            };
            regions.push(open(place).map_err(|source| MemoryError::Io {
                action: "open",
                region: region.name.clone(),
                offset: 0,
                source,
            })?);
        }
        Ok(Self { layout, regions })
    }

    /// Whether a region of it is in the file of which this is the metadata.
    pub fn is_in(&self, file: &Metadata) -> bool {
        let same = |own: &OpenRegion| {
            let own = own.place.file.metadata();
            own.is_ok_and(|own| (own.dev(), own.ino()) == (file.dev(), file.ino()))
        };
        self.regions.iter().any(same)
    }

    fn error(&self, action: &'static str, span: Span, source: impl Into<io::Error>) -> MemoryError {
        MemoryError::Io {
            action,
            region: self.layout.regions()[span.region].name.clone(),
            offset: span.offset,
            source: source.into(),
        }
    }
}

impl ReadPages for FileMemory {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        for (span, piece) in self.layout.pieces_mut(range, out)? {
            let place = &self.regions[span.region].place;
            place
                .file
                .read_exact_at(piece, place.offset + span.offset)
                .map_err(|source| self.error("read", span, source))?;
        }
        Ok(())
    }

    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError> {
        for (number, region) in self.regions.iter().enumerate() {
            let range = self.layout.region_range(number);
            if region.huge.is_some() {
                into.insert(range);
                continue;
            }
            let whole = Span {
                region: number,
                offset: 0,
                range,
            };
            region
                .place
                .for_each_data(range, |run| into.insert(run))
                .map_err(|errno| self.error("find the populated pages of", whole, errno))?;
        }
        Ok(())
    }
}

impl GuestMemory for FileMemory {
    fn write(&self, first: PageIndex, data: &[u8]) -> Result<(), MemoryError> {
        for (span, piece) in self.layout.pieces(first, data)? {
            let OpenRegion { place, huge, turn } = &self.regions[span.region];
            match huge {
                Some(huge) => huge.write(span.offset, piece),
                None => {
                    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                    place.file.write_all_at(piece, place.offset + span.offset)
                }
            }
            .map_err(|source| self.error("write", span, source))?;
        }
        Ok(())
    }

    fn write_zeros(&self, range: PageRange) -> Result<(), MemoryError> {
        self.layout.check(range)?;
        for span in self.layout.spans(range) {
            let region = &self.regions[span.region];
            match &region.huge {
                Some(huge) => region
                    .place
                    .overwrite_nonzero(span, |offset, zeros| huge.write(offset, zeros)),
                None => region.place.punch(span),
            }
            .map_err(|source| self.error("zero", span, source))?;
        }
        Ok(())
    }
}

impl RegionFile {
    /// Calls `found` for each run of the region's pages `range` that the file has data for.
    ///
    /// Moves the offset of the open file, which nothing here depends on. Costs 50 ns per page
    /// that is there, because the kernel looks at each.
    fn for_each_data(&self, range: PageRange, mut found: impl FnMut(PageRange)) -> io::Result<()> {
        let end = self.offset + range.bytes().0;
        let mut at = self.offset;
        while at < end {
            let data = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) if data < end => data,
                // Only a hole up to the end of the file, or of the region.
                Ok(_) | Err(Errno::NXIO) => break,
                // The file system knows no holes.
                Err(Errno::INVAL) => at,
                Err(errno) => return Err(errno.into()),
            };
            let hole = match seek(&self.file, SeekFrom::Hole(data)) {
                Ok(hole) => hole.min(end),
                Err(Errno::INVAL) => end,
                Err(errno) => return Err(errno.into()),
            };
            let first = (data - self.offset) / PAGE_BYTES as u64;
            let after = (hole - self.offset).div_ceil(PAGE_BYTES as u64);
            found(PageRange::new(range.first.0 + first, after - first));
            at = hole.max(data + 1);
        }
        Ok(())
    }

    /// Makes the pages of `span` holes: one call, whatever is there, and the memory is given back.
    ///
    /// Per call and page: 0.55 us where there is a hole, 1.4 us where there is a page. Writing
    /// zeros takes 0.7 us, but pages that are holes must be left alone, and finding that out with
    /// SEEK_DATA costs as much as punching a hole. Runs of 256 KiB cost the same both ways
    /// (0.12 s per GiB).
    fn punch(&self, span: Span) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let offset = self.offset + span.offset;
        match fallocate(&self.file, flags, offset, span.range.bytes().0) {
            Err(Errno::OPNOTSUPP) => self.overwrite_nonzero(span, |page_offset, zeros| {
                self.file.write_all_at(zeros, self.offset + page_offset)
            }),
            result => Ok(result?),
        }
    }

    /// Has `write` put a page of zeros where the content is something else. It is given the byte
    /// offset of the page in the region.
    fn overwrite_nonzero(
        &self,
        span: Span,
        write: impl Fn(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        let mut content = ZEROS;
        for page in 0..span.range.count.0 {
            let offset = span.offset + page * PAGE_BYTES as u64;
            self.file
                .read_exact_at(&mut content, self.offset + offset)?;
            if !is_zero(&content) {
                write(offset, &ZEROS)?;
            }
        }
        Ok(())
    }
}
