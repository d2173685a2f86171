//! The argument of a callback: a way to say why it failed, and to write or read device state.
//!
//! A [`Call`] lives as long as its job, but works only in the thread of the callback, until that returns.

use std::ffi::{c_char, c_void};
use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use pagelift_engine::guest::{self, GuestError};

use crate::error::{Code, Fault};
use crate::handle::{self, Handle};
use crate::text::text;

/// A call of a callback. Valid until the callback returns, in its thread.
#[derive(Debug)]
pub struct Call(());

impl Handle for Call {
    type Body = Mutex<Running>;
    const TAG: u32 = 0x706c_6361;
}

/// Device state on its way, in a callback that runs.
#[derive(Clone, Copy, Default)]
pub(crate) enum Stream {
    /// The callback has none.
    #[default]
    None,
    /// Where a callback writes it.
    Out(*mut (dyn Write + 'static)),
    /// Where a callback reads it.
    In(*mut (dyn Read + 'static)),
}

impl Stream {
    /// Where a callback writes.
    pub(crate) fn out(out: &mut dyn Write) -> Self {
        // SAFETY: only the lifetime is dropped. `Caller::call` lets nobody use the pointer after the
        // callback has returned, and `out` outlives that.
        Self::Out(unsafe { std::mem::transmute::<*mut (dyn Write + '_), *mut dyn Write>(out) })
    }

    /// Where a callback reads.
    pub(crate) fn input(input: &mut dyn Read) -> Self {
        // SAFETY: as above.
        Self::In(unsafe { std::mem::transmute::<*mut (dyn Read + '_), *mut dyn Read>(input) })
    }
}

/// The callback that runs, if one does.
#[derive(Default)]
pub(crate) struct Running {
    thread: Option<ThreadId>,
    stream: Stream,
    /// Why the callback says that it has failed.
    reason: Option<String>,
    /// What the stream said.
    failed: Option<io::Error>,
}

// SAFETY: the pointers of `stream` are used in the thread alone that has put them there.
unsafe impl Send for Running {}

/// Calls the callbacks of one job, one after the other.
#[derive(Debug)]
pub(crate) struct Caller(*mut Call);

// SAFETY: the handle's body may be used by several threads, and lives as long as this.
unsafe impl Send for Caller {}
// SAFETY: as above.
unsafe impl Sync for Caller {}

impl Drop for Caller {
    fn drop(&mut self) {
        // SAFETY: made in `new`; callbacks have returned, since they borrow this.
        unsafe { handle::discard(self.0) };
    }
}

impl Caller {
    pub(crate) fn new() -> Self {
        Self(handle::new::<Call>(Mutex::default()))
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        // SAFETY: the handle lives as long as this.
        let body = unsafe { handle::body(self.0.cast_const(), "call") };
        lock(body.expect("the handle is alive"))
    }

    /// Whether this thread is inside a callback.
    pub(crate) fn is_inside(&self) -> bool {
        self.running().thread == Some(thread::current().id())
    }

    /// Calls `callback`, named `name`, which returns 0 or has failed.
    pub(crate) fn call(
        &self,
        name: &str,
        stream: Stream,
        callback: impl FnOnce(*mut Call) -> i32,
    ) -> guest::Result<()> {
        *self.running() = Running {
            thread: Some(thread::current().id()),
            stream,
            ..Running::default()
        };
        let code = callback(self.0);
        // From here on nobody reaches the stream.
        let ended = std::mem::take(&mut *self.running());
        match (code, ended.failed, ended.reason) {
            (0, None, _) => Ok(()),
            (_, Some(error), _) => Err(GuestError::new(name, error)),
            (_, None, Some(reason)) => Err(GuestError::new(name, reason)),
            (code, None, None) => Err(GuestError(format!("{name}: the callback returned {code}"))),
        }
    }

    /// Calls a callback that cannot fail.
    pub(crate) fn tell(&self, callback: impl FnOnce()) {
        let told = self.call("telling", Stream::None, |_| {
            callback();
            0
        });
        debug_assert!(told.is_ok(), "nobody was given a way to fail");
    }
}

/// Does something for the callback that runs in this thread. What it is given is locked for as long as
/// somebody looks, and not while it waits for the connection.
///
/// # Safety
/// `call` is what the callback was given.
unsafe fn inside(call: *mut Call, body: impl FnOnce(&Mutex<Running>) -> Result<(), Fault>) -> Code {
    let body = |running: &Mutex<Running>| {
        if lock(running).thread != Some(thread::current().id()) {
            let text = "the callback has returned, or runs in another thread";
            return Err(Fault::new(Code::Order, text));
        }
        body(running)
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(call.cast_const(), body) }
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says why a callback has failed, in words for people. Returns PAGELIFT_CODE_GUEST, for the callback
/// to return.
///
/// # Threads
/// In the thread of the callback, until it returns.
///
/// # Safety
/// `call` is what the callback was given; `reason` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_call_fail(call: *mut Call, reason: *const c_char) -> Code {
    let say = |running: &Mutex<Running>| {
        // SAFETY: the caller's promise.
        let reason = unsafe { text(reason, "the reason")? };
        lock(running).reason = Some(reason.to_owned());
        Ok(())
    };
    // SAFETY: the caller's promise.
    match unsafe { inside(call, say) } {
        Code::Ok => Code::Guest,
        code => code,
    }
}

/// Writes `length` bytes of device state, in save_devices. Waits while the connection is full. When it
/// fails, the callback returns: the migration ends, whatever it returns.
///
/// # Threads
/// In the thread of the callback, until it returns.
///
/// # Safety
/// `call` is what the callback was given; `length` bytes can be read at `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_call_write(
    call: *mut Call,
    bytes: *const c_void,
    length: usize,
) -> Code {
    let write = |running: &Mutex<Running>| {
        let Stream::Out(out) = lock(running).stream else {
            let text = "only save_devices writes device state";
            return Err(Fault::new(Code::Order, text));
        };
        if length == 0 {
            return Ok(());
        }
        if bytes.is_null() || isize::try_from(length).is_err() {
            return Err(Fault::argument("the device state is null, or too long"));
        }
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) };
        // SAFETY: this is the thread of the callback, which has not returned: the stream is there.
        let written = unsafe { &mut *out }.write_all(bytes);
        written.map_err(|error| fail(running, error))
    };
    // SAFETY: the caller's promise.
    unsafe { inside(call, write) }
}

/// Reads up to `room` bytes of device state, in load_devices; `read` says how many were read, none at
/// the end. Waits until there are some. All must be read before load_devices returns.
///
/// # Threads
/// In the thread of the callback, until it returns.
///
/// # Safety
/// `call` is what the callback was given; `room` bytes can be written at `bytes`, and a number at `read`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_call_read(
    call: *mut Call,
    bytes: *mut c_void,
    room: usize,
    read: *mut usize,
) -> Code {
    let take = |running: &Mutex<Running>| {
        let Stream::In(input) = lock(running).stream else {
            let text = "only load_devices reads device state";
            return Err(Fault::new(Code::Order, text));
        };
        if read.is_null() || bytes.is_null() || isize::try_from(room).is_err() {
            let text = "the place for device state is null, or too long";
            return Err(Fault::argument(text));
        }
        // SAFETY: the caller's promise. Memory of C's may not have been written yet, so it is now.
        unsafe { bytes.cast::<u8>().write_bytes(0, room) };
        // SAFETY: as above.
        let into = unsafe { std::slice::from_raw_parts_mut(bytes.cast::<u8>(), room) };
        // SAFETY: this is the thread of the callback, which has not returned: the stream is there.
        let count = unsafe { &mut *input }.read(into);
        let count = count.map_err(|error| fail(running, error))?;
        // SAFETY: the caller's promise.
        unsafe { read.write(count) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { inside(call, take) }
}

/// Keeps what the stream said, so that the callback fails.
fn fail(running: &Mutex<Running>, error: io::Error) -> Fault {
    let fault = Fault::new(Code::Link, &error);
    lock(running).failed = Some(error);
    fault
}
