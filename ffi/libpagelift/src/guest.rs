//! Callbacks as the engine's guest.
//!
//! All callbacks of a job are called from one thread, one at a time, never under a lock of the library.
//! They may call any function of the library but those that would wait for themselves, which then fail
//! with PAGELIFT_CODE_IN_CALLBACK. An exception of C++ that leaves a callback ends the process.

use std::ffi::c_void;
use std::io::{Read, Write};
use std::sync::Arc;

use pagelift_engine::guest::{self, SourceGuest, TargetGuest, Throttler};
use pagelift_engine::{GuestLocation, ThrottleShare};

use crate::abi::Versioned;
use crate::call::{Call, Caller, Stream};
use crate::error::{Fault, Place};
use crate::job::Progress;

/// A callback that returns 0, or what it returned from pagelift_call_fail, or another number.
pub type Callback = Option<unsafe extern "C" fn(opaque: *mut c_void, call: *mut Call) -> i32>;

/// Told where a migration is: often, so never wait there.
pub type ProgressCallback =
    Option<unsafe extern "C" fn(opaque: *mut c_void, progress: *const Progress)>;

/// Told that a migration is over, and where the guest is, a pagelift_place. The last call.
pub type FinishCallback = Option<unsafe extern "C" fn(opaque: *mut c_void, place: i32)>;

/// The guest on the source. The callbacks follow each other like this; those that are null are left
/// out, but the first four must be there:
///
/// ```text
/// (running) -> pause -> save_devices -> relinquish -> finish(TARGET)
///                |           |              |
///                +-----------+--------------+--> resume -> finish(SOURCE)
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SourceCallbacks {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// Given to each callback.
    pub opaque: *mut c_void,
    /// Stops the vCPUs and quiesces the devices. No memory of the guest changes once it has returned.
    /// If it fails the guest still runs.
    pub pause: Callback,
    /// Writes the device state by pagelift_call_write. All memory is at the target.
    pub save_devices: Callback,
    /// Makes sure that the guest never runs here again: the target is ready for it. If it fails the
    /// guest can be resumed; when it has returned 0 the guest belongs to the target.
    pub relinquish: Callback,
    /// Lets the guest go on here: the migration failed after pause.
    pub resume: Callback,
    /// Whether the guest is still there. Asked many times a second. If it fails, the guest has ended.
    pub check: Callback,
    /// Keeps every vCPU from running for `permille` of its time, 0 to 990, until it is called again.
    /// Without it, a guest that writes faster than the link carries is not slowed down.
    pub throttle:
        Option<unsafe extern "C" fn(opaque: *mut c_void, permille: u32, call: *mut Call) -> i32>,
    /// Where the migration is.
    pub progress: ProgressCallback,
    /// The migration is over.
    pub finish: FinishCallback,
}

/// The guest on the target. load_devices and run must be there:
///
/// ```text
/// load_devices -> run -> finish(TARGET), or finish(SOURCE) or finish(UNKNOWN) instead
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TargetCallbacks {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// Given to each callback.
    pub opaque: *mut c_void,
    /// Loads the device state by pagelift_call_read, up to its end. All memory is there. If it fails
    /// the guest stays on the source.
    pub load_devices: Callback,
    /// Runs the guest: it is this side's now, also if it does not run. Called once, and only after the
    /// source has relinquished the guest.
    pub run: Callback,
    /// Whether the hypervisor that is to take the guest is still there. Asked many times a second. If
    /// it fails the migration ends.
    pub check: Callback,
    /// Where the migration is.
    pub progress: ProgressCallback,
    /// The migration is over.
    pub finish: FinishCallback,
}

// SAFETY: a number, pointers and callbacks, all of which may be zero.
unsafe impl Versioned for SourceCallbacks {
    const LEAST: usize = size_of::<Self>();
}
// SAFETY: as above.
unsafe impl Versioned for TargetCallbacks {
    const LEAST: usize = size_of::<Self>();
}

// SAFETY: the header says that callbacks are called from a thread of the library's, with `opaque`.
unsafe impl Send for SourceCallbacks {}
// SAFETY: as above.
unsafe impl Send for TargetCallbacks {}

/// What a C program's callbacks stand for.
#[derive(Debug)]
pub(crate) struct Guest<C> {
    callbacks: C,
    caller: Arc<Caller>,
}

/// That those of `callbacks` that must be there are.
fn required(callbacks: &[(&str, Callback)]) -> Result<(), Fault> {
    match callbacks.iter().find(|(_, callback)| callback.is_none()) {
        None => Ok(()),
        Some((name, _)) => Err(Fault::argument(format!("the callback {name} is null"))),
    }
}

impl SourceCallbacks {
    pub(crate) fn check(&self) -> Result<(), Fault> {
        required(&[
            ("pause", self.pause),
            ("save_devices", self.save_devices),
            ("relinquish", self.relinquish),
            ("resume", self.resume),
        ])
    }
}

impl TargetCallbacks {
    pub(crate) fn check(&self) -> Result<(), Fault> {
        required(&[("load_devices", self.load_devices), ("run", self.run)])
    }
}

impl<C> Guest<C> {
    pub(crate) fn new(callbacks: C, caller: Arc<Caller>) -> Self {
        Self { callbacks, caller }
    }

    /// Calls `callback`, if it is there.
    fn call(
        &self,
        name: &str,
        callback: Callback,
        opaque: *mut c_void,
        stream: Stream,
    ) -> guest::Result<()> {
        let Some(callback) = callback else {
            return Ok(());
        };
        self.caller.call(name, stream, |call| {
            // SAFETY: a callback of the embedder's, called as the header says.
            unsafe { callback(opaque, call) }
        })
    }

    fn finished(&self, callback: FinishCallback, opaque: *mut c_void, place: GuestLocation) {
        if let Some(callback) = callback {
            let place = Place::from(place) as i32;
            self.caller.tell(|| {
                // SAFETY: a callback of the embedder's, called as the header says.
                unsafe { callback(opaque, place) };
            });
        }
    }
}

impl SourceGuest for Guest<SourceCallbacks> {
    fn pause(&mut self) -> guest::Result<()> {
        let SourceCallbacks { pause, opaque, .. } = self.callbacks;
        self.call("pause", pause, opaque, Stream::None)
    }

    fn save_devices(&mut self, out: &mut dyn Write) -> guest::Result<()> {
        let SourceCallbacks {
            save_devices,
            opaque,
            ..
        } = self.callbacks;
        self.call("save_devices", save_devices, opaque, Stream::out(out))
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        let SourceCallbacks {
            relinquish, opaque, ..
        } = self.callbacks;
        self.call("relinquish", relinquish, opaque, Stream::None)
    }

    fn resume(&mut self) -> guest::Result<()> {
        let SourceCallbacks { resume, opaque, .. } = self.callbacks;
        self.call("resume", resume, opaque, Stream::None)
    }

    fn check(&mut self) -> guest::Result<()> {
        let SourceCallbacks { check, opaque, .. } = self.callbacks;
        self.call("check", check, opaque, Stream::None)
    }

    fn throttler(&mut self) -> Option<&mut dyn Throttler> {
        self.callbacks.throttle?;
        Some(self)
    }

    fn finish(&mut self, place: GuestLocation) {
        self.finished(self.callbacks.finish, self.callbacks.opaque, place);
    }
}

impl Throttler for Guest<SourceCallbacks> {
    fn throttle(&mut self, share: ThrottleShare) -> guest::Result<()> {
        let SourceCallbacks {
            throttle, opaque, ..
        } = self.callbacks;
        let Some(throttle) = throttle else {
            return Ok(());
        };
        self.caller.call("throttle", Stream::None, |call| {
            // SAFETY: a callback of the embedder's, called as the header says.
            unsafe { throttle(opaque, share.as_permille().into(), call) }
        })
    }
}

impl TargetGuest for Guest<TargetCallbacks> {
    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        let TargetCallbacks {
            load_devices,
            opaque,
            ..
        } = self.callbacks;
        self.call("load_devices", load_devices, opaque, Stream::input(state))
    }

    fn run(&mut self) -> guest::Result<()> {
        let TargetCallbacks { run, opaque, .. } = self.callbacks;
        self.call("run", run, opaque, Stream::None)
    }

    fn check(&mut self) -> guest::Result<()> {
        let TargetCallbacks { check, opaque, .. } = self.callbacks;
        self.call("check", check, opaque, Stream::None)
    }

    fn finish(&mut self, place: GuestLocation) {
        self.finished(self.callbacks.finish, self.callbacks.opaque, place);
    }
}

/// A progress callback, as the engine calls it.
pub(crate) struct OnProgress {
    callback: ProgressCallback,
    opaque: *mut c_void,
    caller: Arc<Caller>,
}

// SAFETY: as for the callbacks that it is one of.
unsafe impl Send for OnProgress {}

impl OnProgress {
    pub(crate) fn new(
        callback: ProgressCallback,
        opaque: *mut c_void,
        caller: &Arc<Caller>,
    ) -> Self {
        let caller = Arc::clone(caller);
        Self {
            callback,
            opaque,
            caller,
        }
    }

    pub(crate) fn tell(&self, progress: impl Into<Progress>) {
        if let Some(callback) = self.callback {
            let progress = progress.into();
            self.caller.tell(|| {
                // SAFETY: a callback of the embedder's, called as the header says.
                unsafe { callback(self.opaque, &raw const progress) };
            });
        }
    }
}
