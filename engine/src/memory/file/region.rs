//! One region of memory in a file: finding what is there, placing, giving back.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapRaw;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fstatfs, seek};
use rustix::io::Errno;

use super::hugetlb::HugePages;
use super::place::RegionFile;
use crate::codec::is_zero;
use crate::units::{PAGE_BYTES, PageCount, PageRange};

/// A region whose file is known to be long enough. Byte offsets are counted from its start.
#[derive(Debug)]
pub(super) struct FileRegion {
    place: RegionFile,
    /// For a file on hugetlbfs.
    huge: Option<HugePages>,
    /// Whether the file is on tmpfs, which tells exactly what is there,
    is_tmpfs: bool,
    /// and in pages of [`PAGE_BYTES`].
    tells_absent: bool,
    /// Held while the file is written: its own lock lets one writer in at a time as well, but
    /// the others would spin for it (docs/decisions/012).
    turn: Mutex<()>,
}

impl FileRegion {
    /// A region of `len_bytes` bytes.
    pub(super) fn open(place: RegionFile, len_bytes: u64) -> io::Result<Self> {
        let metadata = place.file.metadata()?;
        let file_bytes = metadata.len();
        let end = place.offset.checked_add(len_bytes);
        if end.is_none_or(|end| end > file_bytes) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "the file has {file_bytes} bytes, and the region is {len_bytes} bytes from \
                     byte {} on",
                    place.offset
                ),
            ));
        }
        let filesystem = fstatfs(&place.file)?.f_type as u64 & 0xffff_ffff;
        let is_tmpfs = filesystem == u64::from(linux_raw_sys::general::TMPFS_MAGIC);
        Ok(Self {
            huge: HugePages::of(&place, len_bytes)?,
            // With larger pages (mount option huge=) one write populates its neighbours.
            is_tmpfs,
            tells_absent: is_tmpfs && metadata.blksize() == PAGE_BYTES as u64,
            place,
            turn: Mutex::default(),
        })
    }

    /// Maps all of it, `len_bytes` bytes, into this process.
    pub(super) fn map(&self, len_bytes: u64) -> io::Result<MmapRaw> {
        self.place.map(len_bytes)
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.place.file
    }

    /// Whether [`place_absent`](Self::place_absent) can tell what is there.
    pub(super) fn tells_absent(&self) -> bool {
        self.tells_absent
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.place
            .file
            .read_exact_at(out, self.place.offset + offset)
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(huge) = &self.huge {
            return huge.write(offset, data);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_in_turn(offset, data)
    }

    fn write_in_turn(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.place
            .file
            .write_all_at(data, self.place.offset + offset)
    }

    /// Writes those pages of `data` where the file has a hole; how many these were.
    ///
    /// Between finding a hole and filling it nobody else fills it from here. A guest does not
    /// either, as long as its faults on holes are held back, which post-copy does by a userfaultfd.
    pub(super) fn place_absent(&self, offset: u64, data: &[u8]) -> io::Result<PageCount> {
        if !self.tells_absent {
            return Err(Errno::OPNOTSUPP.into());
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut placed = 0;
        let mut write = |from: u64, to: u64| {
            placed += (to - from) / PAGE_BYTES as u64;
            let part = &data[(from - offset) as usize..(to - offset) as usize];
            self.write_in_turn(from, part)
        };
        let mut hole = offset;
        let end = offset + data.len() as u64;
        while hole < end {
            let data = self.next_data(hole, end)?;
            write(hole, data)?;
            hole = if data < end {
                self.next_hole(data, end)?
            } else {
                end
            };
        }
        Ok(PageCount(placed))
    }

    /// Whether the file tells exactly where it holds data: tmpfs does.
    pub(super) fn tells_data(&self) -> bool {
        self.is_tmpfs
    }

    /// Where data begins in the `len_bytes` bytes from `offset` on, if there is any; at a page.
    pub(super) fn first_data(&self, offset: u64, len_bytes: u64) -> io::Result<Option<u64>> {
        let end = offset + len_bytes;
        let data = match self.huge {
            Some(_) => offset,
            None => self.next_data(offset, end)?,
        };
        Ok((data < end).then_some(data - data % PAGE_BYTES as u64))
    }

    /// Calls `found` for each run of the pages `range`, which are at `offset`, that the file has data
    /// for; for all where that cannot be told.
    ///
    /// Costs 50 ns per page that is there, because the kernel looks at each.
    pub(super) fn for_each_data(
        &self,
        offset: u64,
        range: PageRange,
        mut found: impl FnMut(PageRange),
    ) -> io::Result<()> {
        if self.huge.is_some() {
            found(range);
            return Ok(());
        }
        let (mut at, end) = (offset, offset + range.bytes().0);
        while at < end {
            let data = self.next_data(at, end)?;
            if data == end {
                break;
            }
            let hole = self.next_hole(data, end)?;
            let first = (data - offset) / PAGE_BYTES as u64;
            let after = (hole - offset).div_ceil(PAGE_BYTES as u64);
            found(PageRange::new(range.first.0 + first, after - first));
            at = hole.max(data + 1);
        }
        Ok(())
    }

    /// Where data begins at `from` or after it, `end` if not before it. Moves the offset of the open
    /// file, which nothing here depends on; so does [`next_hole`](Self::next_hole).
    fn next_data(&self, from: u64, end: u64) -> io::Result<u64> {
        match seek(&self.place.file, SeekFrom::Data(self.place.offset + from)) {
            Ok(data) => Ok((data - self.place.offset).min(end)),
            // Only a hole up to the end of the file.
            Err(Errno::NXIO) => Ok(end),
            // The file system knows no holes.
            Err(Errno::INVAL) => Ok(from),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Where a hole begins after the data at `from`, `end` if not before it.
    fn next_hole(&self, from: u64, end: u64) -> io::Result<u64> {
        match seek(&self.place.file, SeekFrom::Hole(self.place.offset + from)) {
            Ok(hole) => Ok((hole - self.place.offset).min(end)),
            Err(Errno::INVAL) => Ok(end),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes `len_bytes` bytes from `offset` on read as zeros; holes stay holes.
    pub(super) fn write_zeros(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        // A huge page is kept: it may be hard to get again.
        if self.huge.is_none() {
            match self.punch(offset, len_bytes) {
                Err(Errno::OPNOTSUPP) => {}
                result => return Ok(result?),
            }
        }
        const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        let mut content = ZEROS;
        for page in (offset..offset + len_bytes).step_by(PAGE_BYTES) {
            self.read(page, &mut content)?;
            if !is_zero(&content) {
                self.write(page, &ZEROS)?;
            }
        }
        Ok(())
    }

    /// Gives the memory of `len_bytes` bytes from `offset` on back.
    pub(super) fn discard(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.punch(offset, len_bytes)?;
        if let Some(huge) = &self.huge {
            huge.discarded(offset, len_bytes);
        }
        Ok(())
    }

    /// Makes a hole: one call, whatever is there, and the memory is given back.
    ///
    /// Per call and page: 0.55 us where there is a hole, 1.4 us where there is a page. Writing
    /// zeros takes 0.7 us, but pages that are holes must be left alone, and finding that out with
    /// SEEK_DATA costs as much as punching a hole. Runs of 256 KiB cost the same both ways
    /// (0.12 s per GiB).
    fn punch(&self, offset: u64, len_bytes: u64) -> rustix::io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(
            &self.place.file,
            flags,
            self.place.offset + offset,
            len_bytes,
        )
    }
}
