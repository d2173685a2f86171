//! Texts of C's.

use std::ffi::{CStr, c_char};

use crate::error::Fault;

/// The text at `text`, which is `what`.
///
/// # Safety
/// `text` is null, or a string that ends with a zero byte and lives for as long as the result.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Fault> {
    if text.is_null() {
        return Err(Fault::argument(format!("{what} is null")));
    }
    // SAFETY: not null, so the caller's promise holds.
    let text = unsafe { CStr::from_ptr(text) };
    let not_text = |_| Fault::argument(format!("{what} is not UTF-8"));
    text.to_str().map_err(not_text)
}

/// Copies `from` to `to`, which has `room` bytes, and ends it by a zero byte.
///
/// # Safety
/// `to` is null, or `room` bytes can be written there.
pub(crate) unsafe fn copy_text(from: &str, to: *mut c_char, room: usize) -> Result<(), Fault> {
    if to.is_null() || room <= from.len() {
        return Err(Fault::argument(format!(
            "it takes {} bytes",
            from.len() + 1
        )));
    }
    // SAFETY: there is room for all bytes and the zero.
    unsafe {
        to.cast::<u8>()
            .copy_from_nonoverlapping(from.as_ptr(), from.len());
        to.add(from.len()).write(0);
    }
    Ok(())
}
