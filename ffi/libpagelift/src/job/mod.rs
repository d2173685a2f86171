//! A migration: made, set up, started, watched, and waited for.
//!
//! ```text
//! pagelift_outgoing_new | pagelift_incoming_new
//!   -> pagelift_job_configure, _add_property, _change      (set up)
//!   -> pagelift_job_start
//!   -> pagelift_job_next_event, _progress, _change, ...    (runs)
//!   -> pagelift_job_wait, _outcome                         (has ended)
//!   -> pagelift_job_free
//! ```

pub mod end;
pub mod limits;
pub mod options;
pub mod progress;
pub mod start;
pub mod watch;

pub use end::Outcome;
pub use limits::{AtDeadline, Limits, Policy};
pub use options::Options;
pub use progress::{Phase, Progress};
pub use watch::{Event, EventKind};

use std::ffi::c_char;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use pagelift_engine::Controls;
use pagelift_transports::Endpoint;

use self::end::Ended;
use self::start::{Running, SetUp, Side};
use self::watch::Events;
use crate::abi;
use crate::call::Caller;
use crate::error::{Code, Error, Fault};
use crate::guest::{SourceCallbacks, TargetCallbacks};
use crate::handle::{self, Handle};
use crate::ram::{self, Ram};
use crate::security::{self, Security};
use crate::text::{copy_text, text};

/// A migration, of a guest that leaves or of one that arrives.
/// Several threads may call its functions at once.
#[derive(Debug)]
pub struct Job(());

impl Handle for Job {
    type Body = Body;
    const TAG: u32 = 0x706c_6a6f;
}

/// What is behind a job.
pub(crate) struct Body {
    stage: Mutex<Stage>,
    controls: Controls,
    /// What it tells, from its start on.
    told: OnceLock<Events>,
    caller: Arc<Caller>,
    /// Where the target listens.
    address: String,
}

/// How far a job is.
pub(crate) enum Stage {
    SetUp(Box<SetUp>),
    Running(Box<dyn Running>),
    Ended(Ended),
    /// Being started, or freed.
    Between,
}

impl Body {
    fn new(side: Side, caller: Arc<Caller>, address: String) -> Self {
        Self {
            stage: Mutex::new(Stage::SetUp(Box::new(SetUp::new(side)))),
            controls: Controls::default(),
            told: OnceLock::new(),
            caller,
            address,
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> Result<&Events, Fault> {
        let not_yet = || Fault::new(Code::Order, "the job has not been started");
        self.told.get().ok_or_else(not_yet)
    }

    /// That the call does not come from a callback of this job, for which it would wait.
    fn not_inside(&self) -> Result<(), Fault> {
        if !self.caller.is_inside() {
            return Ok(());
        }
        let text = "a callback of the job may not wait for the job: return from it first";
        Err(Fault::new(Code::InCallback, text))
    }
}

/// A guest that is to leave: it runs here, `ram` is its memory, and a target waits for it at `target`,
/// such as "tcp://host:7000". Names are looked up now; connections are made when it is started. Without
/// `security` only addresses of this host are allowed. Free it with pagelift_job_free.
///
/// # Errors
/// Null, and the reason in `error` unless that is null.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// All arguments can be read; `security` and `error` may be null, and are otherwise set up by
/// PAGELIFT_INIT, as `guest` is. What the callbacks need is there until the job has been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_outgoing_new(
    target: *const c_char,
    security: *const Security,
    ram: *const Ram,
    guest: *const SourceCallbacks,
    error: *mut Error,
) -> *mut Job {
    let make = || {
        // SAFETY: the caller's promise.
        let (target, ram, guest) = unsafe {
            let ram = handle::body(ram, "pagelift_ram")?;
            (text(target, "the target")?, ram, abi::read(guest)?)
        };
        guest.check()?;
        // SAFETY: the caller's promise.
        let security = unsafe { security::chosen(security)? };
        let link = endpoint(target)?.connect_with(&security);
        let link = link.map_err(|error| Fault::new(Code::Address, error))?;
        let ram = ram::lock(ram).clone();
        ram.layout()?;
        let side = Side::Out { link, ram, guest };
        Ok(Body::new(side, Arc::new(Caller::new()), target.to_owned()))
    };
    // SAFETY: the caller's promise.
    unsafe { handle::made(make, error) }
}

/// A guest that is to arrive, into the memory `ram`: listens at `address` from now on, such as
/// "tcp://127.0.0.1:0", where port 0 lets the kernel choose one. Without `security` only addresses of this
/// host are allowed. Free it with pagelift_job_free.
///
/// # Errors
/// Null, and the reason in `error` unless that is null.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// As for pagelift_outgoing_new.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_incoming_new(
    address: *const c_char,
    security: *const Security,
    ram: *const Ram,
    guest: *const TargetCallbacks,
    error: *mut Error,
) -> *mut Job {
    let make = || {
        // SAFETY: the caller's promise.
        let (address, ram, guest) = unsafe {
            let ram = handle::body(ram, "pagelift_ram")?;
            (text(address, "the address")?, ram, abi::read(guest)?)
        };
        guest.check()?;
        let ram = ram::lock(ram).clone();
        ram.layout()?;
        // SAFETY: the caller's promise.
        let security = unsafe { security::chosen(security)? };
        let listener = endpoint(address)?.listen_with(&security);
        let listener = listener.map_err(|error| Fault::new(Code::Address, error))?;
        let address = listener.address();
        let side = Side::In {
            listener,
            ram,
            guest,
        };
        Ok(Body::new(side, Arc::new(Caller::new()), address))
    };
    // SAFETY: the caller's promise.
    unsafe { handle::made(make, error) }
}

fn endpoint(text: &str) -> Result<Endpoint, Fault> {
    text.parse()
        .map_err(|error| Fault::new(Code::Address, error))
}

/// Writes the address to give to the source, or the one that was given, to `text`, which has `room`
/// bytes, and ends it by a zero byte.
///
/// # Errors
/// PAGELIFT_CODE_ARGUMENT when there is not enough room; 300 bytes always are.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `room` bytes can be written at `text`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_address(
    job: *const Job,
    text: *mut c_char,
    room: usize,
) -> Code {
    // SAFETY: the caller's promise.
    let copy = |body: &Body| unsafe { copy_text(&body.address, text, room) };
    // SAFETY: the caller's promise.
    unsafe { handle::with(job, copy) }
}

/// Ends the migration: a guest that leaves is at full speed here within 100 ms, unless it was handed
/// over already. Does not wait. Before the start, the migration ends as soon as it is started.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `job` is a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_cancel(job: *mut Job) -> Code {
    let cancel = |body: &Body| {
        body.controls.cancel();
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(job.cast_const(), cancel) }
}

/// Writes the last error of `job` to `error`: of a call that failed, or of the migration, once
/// pagelift_job_wait has returned it.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `error` was set up by PAGELIFT_INIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_last_error(job: *const Job, error: *mut Error) -> Code {
    // SAFETY: the caller's promise.
    unsafe { handle::last_error(job, error) }
}

/// Frees a job, or nothing if it is null. One that runs is cancelled and waited for: callbacks are called
/// meanwhile, and none afterwards.
///
/// # Errors
/// PAGELIFT_CODE_IN_CALLBACK from a callback of this job. The job is then still there.
///
/// # Threads
/// From any thread but that of a callback of this job, when no other call uses the job.
///
/// # Safety
/// No other call uses the job, now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_free(job: *mut Job) -> Code {
    let end = |body: &Body| {
        body.not_inside()?;
        let stage = std::mem::replace(&mut *body.stage(), Stage::Between);
        // Waits, with no lock held.
        drop(stage);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { handle::free(job, end) }
}
