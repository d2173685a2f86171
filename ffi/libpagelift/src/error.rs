//! Errors: a code, a text, the guest's place, and whether a retry helps.

use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use pagelift_engine::{Failure, GuestLocation, MigrationError, RamError};

use crate::abi::{self, Versioned};

/// What a function returns, and what a migration ended in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// It worked.
    Ok = 0,
    /// An argument is null, out of range, or not what is asked for. Nothing was done.
    Argument = 1,
    /// The pointer is no handle, or one that was freed.
    Handle = 2,
    /// Not now: the job was started already, or was not started yet.
    Order = 3,
    /// Called from a callback of the job that the call would have to wait for.
    InCallback = 4,
    /// There is nothing yet, or the time is up. Not kept as the last error.
    Nothing = 5,
    /// A bug in pagelift: it panicked. The message is on standard error.
    Panic = 6,
    /// The address of the target leads nowhere, or nobody can listen there.
    Address = 7,
    /// The kernel refused a thread, a descriptor, or memory.
    System = 8,

    /// The connection could not be made, or was lost.
    Link = 20,
    /// Nothing was heard from the other side for too long.
    PeerSilent = 21,
    /// The other side sent bytes that are damaged, or no message.
    Malformed = 22,
    /// The other side broke the protocol.
    PeerMisbehaved = 23,
    /// The target cannot take this guest; the text has all reasons.
    Refused = 24,
    /// The other side ended the migration.
    PeerAborted = 25,
    /// A callback has failed.
    Guest = 26,
    /// The guest has ended on the source: it does not run anywhere.
    GuestEnded = 27,
    /// Something happened to the guest for which it was to stay.
    GuestStays = 28,
    /// Guest memory cannot be read or written.
    Memory = 29,
    /// Writes cannot be tracked.
    DirtyTracking = 30,
    /// It cannot be completed within its limits; the text says what would help.
    NotConverging = 31,
    /// It was cancelled.
    Cancelled = 32,
    /// The memories differ at the switchover: the guest was not handed over.
    DigestMismatch = 33,
    /// The sides lost each other during the hand-over.
    InDoubt = 34,
    /// Something else; the text says what.
    Other = 35,
}

/// Where the guest is after a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Place {
    /// The error is not about a migration that has begun.
    None = 0,
    /// It runs, or may be resumed, where it was.
    Source = 1,
    /// It runs where it was sent.
    Target = 2,
    /// It cannot be known: start it on neither side before somebody has found out.
    Unknown = 3,
}

impl From<GuestLocation> for Place {
    fn from(place: GuestLocation) -> Self {
        match place {
            GuestLocation::Source => Self::Source,
            GuestLocation::Target => Self::Target,
            GuestLocation::Unknown => Self::Unknown,
        }
    }
}

/// Bytes of the text of an error, its end included. Longer ones are cut.
pub const PAGELIFT_ERROR_TEXT_BYTES: usize = 1004;

/// An error in full.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Error {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// A pagelift_code; PAGELIFT_CODE_OK if nothing has failed yet.
    pub code: i32,
    /// A pagelift_place: where the guest is now.
    pub place: i32,
    /// 1 if the same may succeed later with nothing changed but the moment, else 0.
    pub retryable: u32,
    /// What failed, why, and the way out: for people, in English, UTF-8, ended by a zero byte.
    pub text: [c_char; PAGELIFT_ERROR_TEXT_BYTES],
}

// SAFETY: numbers and bytes.
unsafe impl Versioned for Error {
    const LEAST: usize = size_of::<Self>();
}

/// Why something was not done.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) place: Place,
    pub(crate) retryable: bool,
    pub(crate) text: String,
}

impl Fault {
    /// A call that did nothing.
    pub(crate) fn new(code: Code, text: impl ToString) -> Self {
        let (place, retryable, text) = (Place::None, false, text.to_string());
        Self {
            code,
            place,
            retryable,
            text,
        }
    }

    pub(crate) fn argument(text: impl ToString) -> Self {
        Self::new(Code::Argument, text)
    }

    /// A panic that was caught, and said what `payload` holds.
    pub(crate) fn panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let said = payload.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| payload.downcast_ref::<&str>().copied());
        let text = format!(
            "a bug in pagelift: it panicked ({})",
            said.unwrap_or("no message")
        );
        Self::new(Code::Panic, text)
    }

    pub(crate) fn to_error(&self) -> Error {
        let mut error = Error {
            struct_size: size_of::<Error>(),
            code: self.code as i32,
            place: self.place as i32,
            retryable: self.retryable.into(),
            text: [0; PAGELIFT_ERROR_TEXT_BYTES],
        };
        let mut end = self.text.len().min(PAGELIFT_ERROR_TEXT_BYTES - 1);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        for (to, from) in error.text.iter_mut().zip(&self.text.as_bytes()[..end]) {
            *to = *from as c_char;
        }
        error
    }
}

impl From<&Failure> for Fault {
    fn from(failure: &Failure) -> Self {
        let code = match &failure.error {
            MigrationError::Link { .. } => Code::Link,
            MigrationError::PeerSilent { .. } => Code::PeerSilent,
            MigrationError::Malformed(_) | MigrationError::Frame(_) => Code::Malformed,
            MigrationError::PeerMisbehaved(_) => Code::PeerMisbehaved,
            MigrationError::Refused { .. } => Code::Refused,
            MigrationError::PeerAborted { .. } => Code::PeerAborted,
            MigrationError::Guest(_) => Code::Guest,
            MigrationError::GuestEnded(_) => Code::GuestEnded,
            MigrationError::GuestStays(_) => Code::GuestStays,
            MigrationError::Memory(_) => Code::Memory,
            MigrationError::Dirty(_) => Code::DirtyTracking,
            MigrationError::NotConverging(_) => Code::NotConverging,
            MigrationError::Cancelled => Code::Cancelled,
            MigrationError::DigestMismatch { .. } => Code::DigestMismatch,
            MigrationError::InDoubt(_) | MigrationError::PromiseUnknown(_) => Code::InDoubt,
            _ => Code::Other,
        };
        Self {
            code,
            place: failure.guest.into(),
            retryable: failure.error.retryable(),
            text: failure.to_string(),
        }
    }
}

impl From<RamError> for Fault {
    fn from(error: RamError) -> Self {
        let code = match error {
            RamError::Memory(_) => Code::Memory,
            RamError::Dirty(_) => Code::DirtyTracking,
        };
        Self::new(code, error)
    }
}

/// The last error of a handle.
#[derive(Debug, Default)]
pub(crate) struct LastError(Mutex<Option<Fault>>);

impl LastError {
    /// Keeps `fault`, and gives its code.
    pub(crate) fn set(&self, fault: Fault) -> Code {
        let code = fault.code;
        if code != Code::Nothing {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
        code
    }

    /// Writes it to `out`.
    ///
    /// # Safety
    /// As for [`abi::write`].
    pub(crate) unsafe fn write(&self, out: *mut Error) -> Code {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = kept.clone().unwrap_or_else(|| Fault::new(Code::Ok, ""));
        drop(kept);
        // SAFETY: the caller's promise.
        match unsafe { abi::write(out, &fault.to_error()) } {
            Ok(()) => Code::Ok,
            Err(fault) => fault.code,
        }
    }
}

/// Runs `body`; a panic becomes an error.
pub(crate) fn caught<R>(body: impl FnOnce() -> Result<R, Fault>) -> Result<R, Fault> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(Fault::panic(&*payload)))
}

/// The name of a pagelift_code, such as "not-converging". A constant string. From any thread.
#[unsafe(no_mangle)]
pub extern "C" fn pagelift_code_name(code: i32) -> *const c_char {
    let name = match code {
        0 => c"ok",
        1 => c"argument",
        2 => c"handle",
        3 => c"order",
        4 => c"in-callback",
        5 => c"nothing",
        6 => c"panic",
        7 => c"address",
        8 => c"system",
        20 => c"link",
        21 => c"peer-silent",
        22 => c"malformed",
        23 => c"peer-misbehaved",
        24 => c"refused",
        25 => c"peer-aborted",
        26 => c"guest",
        27 => c"guest-ended",
        28 => c"guest-stays",
        29 => c"memory",
        30 => c"dirty-tracking",
        31 => c"not-converging",
        32 => c"cancelled",
        33 => c"digest-mismatch",
        34 => c"in-doubt",
        35 => c"other",
        _ => c"unknown",
    };
    name.as_ptr()
}
