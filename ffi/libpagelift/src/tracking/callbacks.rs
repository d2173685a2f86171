//! Writes that a hypervisor tells of when it is asked.

use std::ffi::c_void;
use std::sync::Arc;

use pagelift_engine::dirty::{DirtyError, DirtySource};
use pagelift_engine::memory::{Layout, PageBitmap};

use super::{Lost, Tracking};
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

/// Callbacks that say what was written.
pub(super) struct FromCallbacks {
    callbacks: DirtyCallbacks,
    caller: Arc<Caller>,
    layout: Layout,
    lost: Lost,
    runs: bool,
}

impl FromCallbacks {
    pub(super) fn new(callbacks: DirtyCallbacks, layout: &Layout, caller: Arc<Caller>) -> Self {
        Self {
            callbacks,
            caller,
            layout: layout.clone(),
            lost: Lost::default(),
            runs: false,
        }
    }
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
                into.insert_word(range, index, *word);
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
