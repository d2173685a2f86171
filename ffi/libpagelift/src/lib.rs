//! libpagelift: the C interface of pagelift.
//!
//! `include/pagelift.h` is made from this crate, and tests/header.rs keeps it current. The same [`Job`]
//! of the engine is behind it, so nothing is decided here: pointers are checked, structures of any
//! version are read and written, callbacks become the engine's guest, and what fails becomes a code with
//! a text.
//!
//! | module | what it holds |
//! |---|---|
//! | [`error`] | codes, the last error of a handle, panics turned into errors |
//! | [`handle`] | opaque handles, and what notices one that is none |
//! | [`abi`] | structures that grow: each begins with its size |
//! | [`call`] | what a callback is given: a way to fail, to write and to read |
//! | [`guest`] | callbacks as the engine's guest |
//! | [`ram`] | regions, and what tracks the writes to them |
//! | [`tracking`] | KVM's dirty log and rings, dirty bitmaps, and callbacks that fill them |
//! | [`security`] | how the two sides know each other |
//! | [`job`] | a migration: set up, started, watched, waited for |
//!
//! Invariants: no callback is called under a lock; no panic leaves the library; no signal handler, no
//! thread before a job is started, no global state (builds with debug assertions remember freed handles).
//!
//! [`Job`]: pagelift_engine::Job

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(unsafe_code, reason = "C gives pointers")]

pub mod abi;
pub mod call;
pub mod error;
pub mod guest;
pub mod handle;
pub mod job;
pub mod ram;
pub mod security;
mod text;
pub mod tracking;

use std::ffi::{CStr, c_char};

/// Version of this header: raised when anything that is there changes. It is the number in the name
/// of the shared library, libpagelift.so.1.
pub const PAGELIFT_ABI_MAJOR: u32 = 1;

/// Raised when something is added: functions, constants, fields at the end of a structure.
pub const PAGELIFT_ABI_MINOR: u32 = 1;

/// The version of the interface that the library has: 65536 times the major number, plus the minor.
/// From any thread.
#[unsafe(no_mangle)]
pub extern "C" fn pagelift_abi() -> u32 {
    (PAGELIFT_ABI_MAJOR << 16) | PAGELIFT_ABI_MINOR
}

/// The version of pagelift, such as "0.1.0". A constant string. From any thread.
#[unsafe(no_mangle)]
pub extern "C" fn pagelift_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}
