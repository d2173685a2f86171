//! Guest memory that the guest writes between any two steps of its reader.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagelift_engine::memory::{
    GuestMemory, InFiles, KnownFile, Layout, Mark, MemoryError, PageBitmap, PlacedMark, Reach,
    ReadPages, Region,
};
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount, PageIndex, PageRange};

use super::crew;
use super::truth::{Mishap, Truth};

/// Which side a memory is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

#[derive(Debug)]
pub struct SimMemory {
    layout: Layout,
    side: Side,
    truth: Arc<Truth>,
    /// Who else can have the file that it lies in.
    reach: Reach,
    pages: Arc<Mutex<Pages>>,
}

#[derive(Debug)]
struct Pages {
    content: Vec<u8>,
    populated: PageBitmap,
    /// Behind the end of the file.
    mark: Option<Mark>,
    /// Flip a bit of the n-th page that is placed, behind the checksum's back.
    damage_in: Option<u64>,
}

impl SimMemory {
    /// Memory of `pages` pages in two regions of one file, never populated.
    pub fn new(pages: u64, side: Side, reach: Reach, truth: &Arc<Truth>) -> Self {
        let region = |name: &str, pages| Region {
            name: name.into(),
            pages: PageCount(pages),
            backing_page: ByteCount(4096),
        };
        let low = pages.div_ceil(3);
        let layout = Layout::new(vec![region("low", low), region("high", pages - low)]);
        Self {
            layout: layout.expect("two regions of pages"),
            side,
            truth: Arc::clone(truth),
            reach,
            pages: Arc::new(Mutex::new(Pages {
                content: vec![0; usize::try_from(pages).unwrap() * PAGE_BYTES],
                populated: PageBitmap::new(PageCount(pages)),
                mark: None,
                damage_in: None,
            })),
        }
    }

    pub fn damage_in(&self, placed: Option<u64>) {
        self.lock().damage_in = placed;
    }

    /// The guest writes.
    pub fn store(&self, page: u64, offset: usize, bytes: &[u8]) {
        let mut pages = self.lock();
        pages.populated.insert(PageRange::new(page, 1));
        let at = usize::try_from(page).unwrap() * PAGE_BYTES + offset;
        pages.content[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// All of it.
    pub fn content(&self) -> Vec<u8> {
        self.lock().content.clone()
    }

    /// Pages that differ from those of `other`.
    pub fn differences(&self, other: &Self) -> PageBitmap {
        let mut differ = PageBitmap::new(self.layout.pages());
        let (mine, theirs) = (self.lock(), other.lock());
        if mine.content == theirs.content {
            return differ;
        }
        let pages = mine.content.chunks(PAGE_BYTES);
        for (page, (here, there)) in (0..).zip(pages.zip(theirs.content.chunks(PAGE_BYTES))) {
            if here != there {
                differ.insert(PageRange::new(page, 1));
            }
        }
        differ
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(action: &'static str) -> MemoryError {
        MemoryError::Io {
            action,
            region: "low".into(),
            offset: 0,
            source: io::ErrorKind::StorageFull.into(),
        }
    }

    fn check_still(&self) {
        if self.truth.target_runs() {
            let what = "memory was placed under a guest that runs";
            self.truth.broken(what.into());
        }
    }
}

impl ReadPages for SimMemory {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&self, range: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        let mishap = match self.side {
            Side::Source => Mishap::SourceRead,
            Side::Target => Mishap::TargetRead,
        };
        if self.truth.strikes(mishap) {
            return Err(Self::error("read"));
        }
        crew::meanwhile();
        for (page, out) in range.indices().zip(out.chunks_mut(PAGE_BYTES)) {
            let at = usize::try_from(page).unwrap() * PAGE_BYTES;
            // A page is not read in one go: the guest may write between the two halves.
            let middle = PAGE_BYTES / 2;
            out[..middle].copy_from_slice(&self.lock().content[at..at + middle]);
            if self.side == Side::Source {
                crew::write_meanwhile(page);
            }
            out[middle..].copy_from_slice(&self.lock().content[at + middle..at + PAGE_BYTES]);
        }
        Ok(())
    }

    fn populated(&self, into: &mut PageBitmap) -> Result<(), MemoryError> {
        if self.side == Side::Source && self.truth.strikes(Mishap::Populated) {
            return Err(Self::error("find the populated pages of"));
        }
        crew::meanwhile();
        into.union(&self.lock().populated);
        crew::meanwhile();
        Ok(())
    }

    fn in_files(&self) -> Option<&dyn InFiles> {
        Some(self)
    }
}

impl InFiles for SimMemory {
    fn files(&self) -> Vec<KnownFile> {
        let inode = match self.side {
            Side::Source => 1,
            Side::Target => 2,
        };
        vec![KnownFile::new("low".into(), 1, (1, inode), self.reach)]
    }

    fn place_mark(&self, _: usize, word: u64) -> Result<Box<dyn PlacedMark>, MemoryError> {
        if self.truth.strikes(Mishap::TargetWrite) {
            return Err(Self::error("mark"));
        }
        let offset = self.layout.pages().bytes().0;
        let mark = Mark { offset, word };
        self.lock().mark = Some(mark);
        Ok(Box::new(SimMark(Arc::clone(&self.pages), mark)))
    }

    fn shows(&self, mark: Mark) -> Result<bool, MemoryError> {
        if self.truth.strikes(Mishap::SourceRead) {
            return Err(Self::error("read"));
        }
        Ok(self.lock().mark == Some(mark))
    }
}

/// A mark in a memory, which is gone when this is.
struct SimMark(Arc<Mutex<Pages>>, Mark);

impl PlacedMark for SimMark {
    fn mark(&self) -> Mark {
        self.1
    }

    fn take_back(self: Box<Self>) -> Result<(), MemoryError> {
        Ok(())
    }
}

impl Drop for SimMark {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).mark = None;
    }
}

impl GuestMemory for SimMemory {
    fn write(&self, first: PageIndex, data: &[u8]) -> Result<(), MemoryError> {
        crew::check_round();
        crew::meanwhile();
        if self.truth.strikes(Mishap::TargetWrite) {
            return Err(Self::error("write"));
        }
        self.check_still();
        let mut pages = self.lock();
        let range = PageRange::new(first.0, (data.len() / PAGE_BYTES) as u64);
        pages.populated.insert(range);
        let at = usize::try_from(first.0).unwrap() * PAGE_BYTES;
        pages.content[at..at + data.len()].copy_from_slice(data);
        if let Some(left) = pages.damage_in.take() {
            match left.checked_sub(range.count.0) {
                Some(left) => pages.damage_in = Some(left),
                None => pages.content[at + 100] ^= 1,
            }
        }
        Ok(())
    }

    fn write_zeros(&self, range: PageRange) -> Result<(), MemoryError> {
        crew::check_round();
        if self.truth.strikes(Mishap::TargetWrite) {
            return Err(Self::error("clear"));
        }
        self.check_still();
        let mut pages = self.lock();
        let at = usize::try_from(range.first.0).unwrap() * PAGE_BYTES;
        pages.content[at..at + range.len_bytes()].fill(0);
        Ok(())
    }
}
