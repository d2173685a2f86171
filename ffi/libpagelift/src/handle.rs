//! Opaque handles, and what notices a pointer that is none.
//!
//! A handle begins with a number that names its kind. A pointer to anything else, and in most cases one
//! that was freed, has another one there: the call is refused. To look is all that C allows: a pointer
//! to nothing still faults, and memory of a freed handle may have been given to somebody else. Builds
//! with debug assertions therefore keep the shell of every freed handle.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::abi;
use crate::error::{Code, Error, Fault, LastError, caught};

/// What stands in place of the kind in a handle that was freed.
const FREED: u32 = 0x6465_6164;

/// What a pointer of C's stands for.
pub(crate) trait Handle {
    /// What is behind it.
    type Body: Send + Sync + 'static;

    /// The number that names its kind.
    const TAG: u32;
}

/// A handle as it is in memory.
#[repr(C)]
struct Shell<T> {
    tag: AtomicU32,
    last: LastError,
    body: ManuallyDrop<T>,
}

/// Makes a handle.
pub(crate) fn new<H: Handle>(body: H::Body) -> *mut H {
    Box::into_raw(Box::new(Shell {
        tag: AtomicU32::new(H::TAG),
        last: LastError::default(),
        body: ManuallyDrop::new(body),
    }))
    .cast()
}

/// Makes a handle of what `make` gives, or gives null and the error.
///
/// # Safety
/// `error` is null, or set up by PAGELIFT_INIT.
pub(crate) unsafe fn made<H: Handle>(
    make: impl FnOnce() -> Result<H::Body, Fault>,
    error: *mut Error,
) -> *mut H {
    match caught(make) {
        Ok(body) => new(body),
        Err(fault) => {
            if !error.is_null() {
                // SAFETY: the caller's promise. There is no other way to report that it failed.
                let _ = unsafe { abi::write(error, &fault.to_error()) };
            }
            std::ptr::null_mut()
        }
    }
}

/// The shell that `handle` points to.
///
/// # Safety
/// `handle` is null, or points to memory that can be read; if a handle of this kind is there, it is not
/// freed for as long as the result lives.
unsafe fn shell<'a, H: Handle>(handle: *const H) -> Result<&'a Shell<H::Body>, Code> {
    let shell = handle.cast::<Shell<H::Body>>();
    if shell.is_null() {
        return Err(Code::Argument);
    }
    if !shell.is_aligned() {
        return Err(Code::Handle);
    }
    // SAFETY: it can be read, and is aligned.
    let tag = unsafe { &*shell.cast::<AtomicU32>() }.load(Ordering::Acquire);
    if tag != H::TAG {
        return Err(Code::Handle);
    }
    // SAFETY: the tag says that it is a handle of this kind.
    Ok(unsafe { &*shell })
}

/// Does something with a handle; what fails becomes its last error.
///
/// # Safety
/// As for [`shell`], for the length of the call.
pub(crate) unsafe fn with<H: Handle>(
    handle: *const H,
    body: impl FnOnce(&H::Body) -> Result<(), Fault>,
) -> Code {
    // SAFETY: the caller's promise.
    let shell = match unsafe { shell(handle) } {
        Ok(shell) => shell,
        Err(code) => return code,
    };
    match caught(|| body(&shell.body)) {
        Ok(()) => Code::Ok,
        Err(fault) => shell.last.set(fault),
    }
}

/// The body of a handle, as an argument of another call.
///
/// # Safety
/// As for [`shell`].
pub(crate) unsafe fn body<'a, H: Handle>(
    handle: *const H,
    what: &str,
) -> Result<&'a H::Body, Fault> {
    // SAFETY: the caller's promise.
    match unsafe { shell(handle) } {
        Ok(shell) => Ok(&shell.body),
        Err(code) => Err(Fault::new(
            code,
            format!("the {what} is null, or no handle"),
        )),
    }
}

/// Writes the last error of a handle to `out`.
///
/// # Safety
/// As for [`shell`] and [`abi::write`](crate::abi::write).
pub(crate) unsafe fn last_error<H: Handle>(handle: *const H, out: *mut Error) -> Code {
    // SAFETY: the caller's promise.
    match unsafe { shell(handle) } {
        // SAFETY: the caller's promise.
        Ok(shell) => unsafe { shell.last.write(out) },
        Err(code) => code,
    }
}

/// Frees a handle, after `end` has allowed it. Null is none, and fine.
///
/// # Safety
/// As for [`shell`]; and nobody else uses the handle, now or later.
pub(crate) unsafe fn free<H: Handle>(
    handle: *mut H,
    end: impl FnOnce(&H::Body) -> Result<(), Fault>,
) -> Code {
    if handle.is_null() {
        return Code::Ok;
    }
    // SAFETY: the caller's promise.
    let code = unsafe { with(handle.cast_const(), end) };
    if code != Code::Ok {
        return code;
    }
    // SAFETY: a handle of this kind, made by `new`, which nobody else uses.
    let mut shell = unsafe { Box::from_raw(handle.cast::<Shell<H::Body>>()) };
    shell.tag.store(FREED, Ordering::Release);
    // SAFETY: the tag keeps everybody from using it again.
    let body = unsafe { ManuallyDrop::take(&mut shell.body) };
    let dropped = caught(|| {
        drop(body);
        Ok(())
    });
    keep(shell);
    dropped.map_or_else(|fault| fault.code, |()| Code::Ok)
}

/// Frees a handle that nothing can keep from being freed.
///
/// # Safety
/// As for [`free`].
pub(crate) unsafe fn discard<H: Handle>(handle: *mut H) {
    // SAFETY: the caller's promise.
    let _ = unsafe { free(handle, |_| Ok(())) };
}

/// Keeps the shell, so that its memory is not given to somebody else.
#[cfg(debug_assertions)]
fn keep<T: Send + Sync + 'static>(shell: Box<Shell<T>>) {
    use std::any::Any;
    use std::sync::{Mutex, PoisonError};

    static FREED_SHELLS: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());
    let mut shells = FREED_SHELLS.lock().unwrap_or_else(PoisonError::into_inner);
    shells.push(shell);
}

#[cfg(not(debug_assertions))]
fn keep<T>(shell: Box<Shell<T>>) {
    drop(shell);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    struct Thing;

    impl Handle for Thing {
        type Body = Arc<AtomicBool>;
        const TAG: u32 = 1;
    }

    #[test]
    fn a_panic_becomes_an_error_of_the_handle() {
        let handle = new::<Thing>(Arc::default());
        // SAFETY: a handle that is alive.
        let code = unsafe { with(handle.cast_const(), |_| panic!("on purpose")) };
        assert_eq!(code, Code::Panic);
        let mut error = Fault::new(Code::Ok, "").to_error();
        // SAFETY: as above; the structure is ours.
        let code = unsafe { last_error(handle.cast_const(), &raw mut error) };
        assert_eq!(code, Code::Ok);
        let text: Vec<u8> = error.text.iter().map(|byte| *byte as u8).collect();
        let text = std::ffi::CStr::from_bytes_until_nul(&text).unwrap();
        assert!(text.to_str().unwrap().contains("on purpose"));
        assert_eq!(error.code, Code::Panic as i32);
        // SAFETY: nobody uses it any more.
        unsafe { discard(handle) };
    }

    #[test]
    #[cfg(debug_assertions)]
    fn a_freed_handle_is_noticed_and_its_body_is_gone() {
        let body = Arc::<AtomicBool>::default();
        let handle = new::<Thing>(Arc::clone(&body));
        // SAFETY: alive the first time; builds with debug assertions keep the shell of a freed one.
        unsafe {
            assert_eq!(with(handle.cast_const(), |_| Ok(())), Code::Ok);
            assert_eq!(
                free(handle, |_| Err(Fault::new(Code::Order, "not yet"))),
                Code::Order
            );
            assert_eq!(with(handle.cast_const(), |_| Ok(())), Code::Ok);
            assert_eq!(free(handle, |_| Ok(())), Code::Ok);
            assert_eq!(Arc::strong_count(&body), 1);
            assert_eq!(with(handle.cast_const(), |_| Ok(())), Code::Handle);
            assert_eq!(free(handle, |_| Ok(())), Code::Handle);
        }
    }
}
