//! Where the set of written pages comes from: page tables, bitmaps in memory, callbacks.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pagelift_engine::dirty::{DirtyError, DirtySource};
use pagelift_engine::memory::{Layout, PageBitmap};
use pagelift_engine::units::PageRange;

use crate::abi::{self, Versioned};
use crate::call::{Call, Caller, Stream};
use crate::error::{Code, Fault};
use crate::guest::Callback;
use crate::ram::{self, Description, Ram};

/// Writes that a hypervisor knows of.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DirtyCallbacks {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// Given to each callback.
    pub opaque: *mut c_void,
    /// Tracking begins: every write from its return on is to be reported. May be null.
    pub start: Callback,
    /// Sets the bits of pages of 4096 bytes of region number `region` that were written since the last
    /// time: page n is bit n % 64 of bitmap[n / 64]. Marks are cleared before it returns, so that a later
    /// write counts for the next time. The bitmap is zero, and has `words` words.
    pub harvest: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            region: u32,
            bitmap: *mut u64,
            words: usize,
            call: *mut Call,
        ) -> i32,
    >,
    /// Tracking ends. May be null.
    pub stop: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
}

// SAFETY: a number, pointers and callbacks, all of which may be zero.
unsafe impl Versioned for DirtyCallbacks {
    const LEAST: usize = size_of::<Self>();
}
// SAFETY: the header says that callbacks are called from a thread of the library's, with `opaque`.
unsafe impl Send for DirtyCallbacks {}
// SAFETY: as above; nothing is changed in it.
unsafe impl Sync for DirtyCallbacks {}

/// A way to track writes.
#[derive(Clone, Debug)]
pub(crate) enum Tracking {
    PageTables,
    Bitmap(Bitmap),
    Callbacks(DirtyCallbacks),
}

/// A bitmap of one region, in memory of the embedder's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bitmap {
    region: usize,
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

impl Tracking {
    /// The number of the only region that it is for, if it is for one.
    pub(crate) fn only_region(&self) -> Option<usize> {
        match self {
            Self::Bitmap(bitmap) => Some(bitmap.region),
            Self::PageTables | Self::Callbacks(_) => None,
        }
    }

    /// The engine's source of dirty pages.
    pub(crate) fn source(
        &self,
        ram: &Description,
        layout: &Layout,
        caller: &Arc<Caller>,
    ) -> Result<Box<dyn DirtySource>, Fault> {
        Ok(match self {
            Self::PageTables => ram.page_tables(layout)?,
            Self::Bitmap(bitmap) => {
                let range = layout.region_range(bitmap.region);
                Box::new(FromBitmap(*bitmap, range, Lost::default()))
            }
            Self::Callbacks(callbacks) => Box::new(FromCallbacks {
                callbacks: *callbacks,
                caller: Arc::clone(caller),
                layout: layout.clone(),
                lost: Lost::default(),
                runs: false,
            }),
        })
    }
}

/// Pages that were harvested and did not reach the target.
#[derive(Default)]
struct Lost(Option<PageBitmap>);

impl Lost {
    fn keep(&mut self, pages: &PageBitmap) {
        let lost = self
            .0
            .get_or_insert_with(|| PageBitmap::new(pages.capacity()));
        lost.union(pages);
    }

    fn take(&mut self, into: &mut PageBitmap) {
        if let Some(lost) = self.0.take() {
            into.union(&lost);
        }
    }
}

/// Adds the pages of `range` whose bits are set in `word`, the one number `index`, to `into`.
fn insert(into: &mut PageBitmap, range: PageRange, index: usize, mut word: u64) {
    while word != 0 {
        let first = u64::from(word.trailing_zeros());
        let page = index as u64 * 64 + first;
        let count = u64::from((word >> first).trailing_ones());
        let count = count.min(range.count.0.saturating_sub(page));
        if count == 0 {
            return;
        }
        into.insert(PageRange::new(range.first.0 + page, count));
        word &= !((u64::MAX >> (64 - count)) << first);
    }
}

/// A bitmap that the hypervisor sets bits of.
struct FromBitmap(Bitmap, PageRange, Lost);

impl DirtySource for FromBitmap {
    fn arm(&mut self) -> Result<(), DirtyError> {
        for word in self.0.words() {
            word.swap(0, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Takes each word by a swap: see [`ManualTracker`](pagelift_engine::dirty::ManualTracker) for why
    /// no write is lost.
    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        self.2.take(into);
        for (index, word) in self.0.words().iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                insert(into, self.1, index, word.swap(0, Ordering::AcqRel));
            }
        }
        Ok(())
    }

    fn give_back(&mut self, pages: &PageBitmap) {
        self.2.keep(pages);
    }

    fn disarm(&mut self) {}
}

/// Callbacks that say what was written.
struct FromCallbacks {
    callbacks: DirtyCallbacks,
    caller: Arc<Caller>,
    layout: Layout,
    lost: Lost,
    runs: bool,
}

/// A callback that failed, as an error of tracking.
fn failed(call: &'static str, error: impl std::fmt::Display) -> DirtyError {
    DirtyError::Kernel {
        call,
        source: std::io::Error::other(error.to_string()),
    }
}

impl DirtySource for FromCallbacks {
    fn arm(&mut self) -> Result<(), DirtyError> {
        let DirtyCallbacks { start, opaque, .. } = self.callbacks;
        if let Some(start) = start {
            // SAFETY: a callback of the embedder's, called as the header says.
            let call = |call| unsafe { start(opaque, call) };
            let started = self.caller.call("start", Stream::None, call);
            started.map_err(|error| failed("the callback", error))?;
        }
        self.runs = true;
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageBitmap) -> Result<(), DirtyError> {
        self.lost.take(into);
        let DirtyCallbacks {
            harvest, opaque, ..
        } = self.callbacks;
        let Some(harvest) = harvest else {
            return Ok(());
        };
        for region in 0..self.layout.regions().len() {
            let range = self.layout.region_range(region);
            let mut bitmap = vec![0_u64; range.count.0.div_ceil(64) as usize];
            let harvested = self.caller.call("harvest", Stream::None, |call| {
                let (words, count) = (bitmap.as_mut_ptr(), bitmap.len());
                // SAFETY: a callback of the embedder's, called as the header says.
                unsafe { harvest(opaque, region as u32, words, count, call) }
            });
            harvested.map_err(|error| failed("the callback", error))?;
            for (index, word) in bitmap.iter().enumerate() {
                insert(into, range, index, *word);
            }
        }
        Ok(())
    }

    fn give_back(&mut self, pages: &PageBitmap) {
        self.lost.keep(pages);
    }

    fn disarm(&mut self) {
        let DirtyCallbacks { stop, opaque, .. } = self.callbacks;
        if let (true, Some(stop)) = (std::mem::take(&mut self.runs), stop) {
            // SAFETY: a callback of the embedder's, called as the header says.
            self.caller.tell(|| unsafe { stop(opaque) });
        }
    }
}

impl Drop for FromCallbacks {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// Tracks writes by the page tables of this process, with a userfaultfd of its own: writes of its
/// threads, of its KVM vCPUs, and of the kernel for it. Linux 6.7 or newer. This is what a source does if
/// no other way is named. Each region has an address.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// `ram` is a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_track_page_tables(ram: *mut Ram) -> Code {
    // SAFETY: the caller's promise.
    unsafe { ram::track(ram, |_| Ok(Tracking::PageTables)) }
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

/// Tracks writes by callbacks. They are called in the thread of the job.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// `callbacks` was set up by PAGELIFT_INIT; what it names is there until every job that is made of this
/// description has been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_track_callbacks(
    ram: *mut Ram,
    callbacks: *const DirtyCallbacks,
) -> Code {
    let tracking = |_: &Description| {
        // SAFETY: the caller's promise.
        let callbacks = unsafe { abi::read(callbacks)? };
        if callbacks.harvest.is_none() {
            return Err(Fault::argument("the callback harvest is null"));
        }
        Ok(Tracking::Callbacks(callbacks))
    };
    // SAFETY: the caller's promise.
    unsafe { ram::track(ram, tracking) }
}
