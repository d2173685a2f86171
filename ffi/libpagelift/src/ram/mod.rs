//! A guest's RAM: regions, and what tracks the writes to them.
//!
//! A pagelift_ram is a description: each job that is made of it makes its own memory and trackers when
//! it starts.

mod description;

use std::ffi::{c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use self::description::Description;

use self::description::known;
use crate::abi::{self, Versioned};
use crate::error::{Code, Error, Fault};
use crate::handle::{self, Handle};
use crate::tracking::Tracking;

/// A description of a guest's RAM.
#[derive(Debug)]
pub struct Ram(());

impl Handle for Ram {
    type Body = Mutex<Description>;
    const TAG: u32 = 0x706c_7261;
}

/// One contiguous piece of guest memory. Both sides describe the same regions, in the same order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Region {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// The name both sides know it by, 1 to 255 bytes of UTF-8, unique.
    pub name: *const c_char,
    /// Its length: whole pages of page_bytes.
    pub bytes: u64,
    /// Bytes of one page of the memory behind it: 4096, or a huge page's size. 0 means 4096.
    pub page_bytes: u64,
    /// Where the guest has it. If it is not 0, it must be the same on both sides.
    pub guest_address: u64,
    /// Where this process has it mapped. May be null for memory in a file on a target, or if page
    /// tables are not what tracks its writes.
    pub address: *mut c_void,
    /// 1: in the file `fd`, which is mapped as shared memory. 0: private anonymous memory.
    pub in_file: u32,
    /// A memfd, or a file on tmpfs or hugetlbfs, for reading and writing. The library keeps its own copy.
    pub fd: i32,
    /// Byte of the file at which it begins: whole pages.
    pub offset: u64,
}

// SAFETY: numbers and pointers, all of which may be zero.
unsafe impl Versioned for Region {
    const LEAST: usize = size_of::<Self>();
}

/// A description that nobody else changes meanwhile.
pub(crate) fn lock(ram: &Mutex<Description>) -> MutexGuard<'_, Description> {
    ram.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A description without a region. Free it with pagelift_ram_free.
///
/// # Threads
/// From any thread.
#[unsafe(no_mangle)]
pub extern "C" fn pagelift_ram_new() -> *mut Ram {
    handle::new(Mutex::default())
}

/// Adds a region. All are in files, or none is.
///
/// # Errors
/// PAGELIFT_CODE_ARGUMENT when sizes and places are no whole pages, a name is no name or is there
/// already, or `fd` is no descriptor.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// Private memory stays mapped at `address`, in full, readable and writable, until every job that is made
/// of this description has been freed. `region` and its name can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_add(ram: *mut Ram, region: *const Region) -> Code {
    let add = |body: &Mutex<Description>| {
        // SAFETY: the caller's promise.
        let known = unsafe { known(abi::read(region)?)? };
        let mut description = lock(body);
        description.regions.push(known);
        let layout = description.layout();
        if let Err(fault) = layout {
            description.regions.pop();
            return Err(Fault::argument(fault.text));
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(ram.cast_const(), add) }
}

/// Adds a way in which writes are tracked. Several are combined: each sees other writes.
///
/// # Safety
/// As for [`handle::with`].
pub(crate) unsafe fn track(
    ram: *mut Ram,
    tracking: impl FnOnce(&Description) -> Result<Tracking, Fault>,
) -> Code {
    let add = |body: &Mutex<Description>| {
        let mut description = lock(body);
        let tracking = tracking(&description)?;
        description.tracking.push(tracking);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(ram.cast_const(), add) }
}

/// Writes the last error of `ram` to `error`.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// `error` was set up by PAGELIFT_INIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_last_error(ram: *const Ram, error: *mut Error) -> Code {
    // SAFETY: the caller's promise.
    unsafe { handle::last_error(ram, error) }
}

/// Frees a description, or nothing if it is null. Jobs that were made of it have their own.
///
/// # Threads
/// From any thread, when no other call uses the description.
///
/// # Safety
/// No other call uses it, now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_free(ram: *mut Ram) -> Code {
    // SAFETY: the caller's promise.
    unsafe { handle::free(ram, |_| Ok(())) }
}
