//! Writes that a hypervisor tells of by setting bits.

use std::sync::atomic::{AtomicU64, Ordering};

use pagelift_engine::dirty::{DirtyError, DirtySource};
use pagelift_engine::memory::{Layout, PageBitmap};
use pagelift_engine::units::PageRange;

use super::{Lost, Tracking};
use crate::error::{Code, Fault};
use crate::ram::{self, Description, Ram};

/// A bitmap of one region, in memory of the embedder's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bitmap {
    pub(super) region: usize,
    words: *const AtomicU64,
    count: usize,
}

// SAFETY: the words are atomic, and pagelift_ram_track_bitmap makes the caller promise that they stay.
unsafe impl Send for Bitmap {}
// SAFETY: as above.
unsafe impl Sync for Bitmap {}

impl Bitmap {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.words, self.count) }
    }
}

/// A bitmap that the hypervisor sets bits of.
pub(super) struct FromBitmap {
    bitmap: Bitmap,
    range: PageRange,
    lost: Lost,
}

impl FromBitmap {
    pub(super) fn new(bitmap: Bitmap, layout: &Layout) -> Self {
        Self {
            bitmap,
            range: layout.region_range(bitmap.region),
            lost: Lost::default(),
        }
    }
}

impl DirtySource for FromBitmap {
    fn arm(&mut self) -> Result<(), DirtyError> {
        for word in self.bitmap.words() {
            word.swap(0, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Takes each word by a swap: see [`ManualTracker`](pagelift_engine::dirty::ManualTracker) for why
    /// no write is lost.
    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        self.lost.take(into);
        for (index, word) in self.bitmap.words().iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                into.insert_word(self.range, index, word.swap(0, Ordering::AcqRel));
            }
        }
        Ok(())
    }

    fn give_back(&mut self, pages: &PageBitmap) {
        self.lost.keep(pages);
    }

    fn disarm(&mut self) {}
}

/// Tracks writes by a bitmap of pages of 4096 bytes of region number `region`, from 0. A writer first
/// writes, and then sets bit n % 64 of words[n / 64] by an atomic operation with release order, such as
/// atomic_fetch_or. The library takes bits away by atomic operations too.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// The words are there until every job that is made of this description has been freed, and are changed
/// by atomic operations alone while one runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_track_bitmap(
    ram: *mut Ram,
    region: u32,
    words: *mut u64,
    count: usize,
) -> Code {
    let bitmap = |description: &Description| {
        let layout = description.layout()?;
        let region = region as usize;
        if region >= layout.regions().len() {
            return Err(Fault::argument(format!(
                "there is no region number {region}"
            )));
        }
        let need = layout.region_range(region).count.0.div_ceil(64);
        if words.is_null() || !words.is_aligned() || count as u64 != need {
            let text = format!("the bitmap of region {region} has {need} words, aligned");
            return Err(Fault::argument(text));
        }
        Ok(Tracking::Bitmap(Bitmap {
            region,
            words: words.cast_const().cast(),
            count,
        }))
    };
    // SAFETY: the caller's promise.
    unsafe { ram::track(ram, bitmap) }
}
