//! The end of a job: how it ended, and in what numbers.

use pagelift_engine::{Received, Report};

use super::progress::us;
use super::watch::limit;
use super::{Body, Job, Stage};
use crate::abi::{self, Versioned};
use crate::error::{Code, Fault, Place};
use crate::handle;

/// How a migration ended. What this side does not know is 0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Outcome {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// A pagelift_code: PAGELIFT_CODE_OK if the guest has moved.
    pub code: i32,
    /// A pagelift_place: where the guest is.
    pub place: i32,
    /// 1 if the same may succeed later with nothing changed but the moment, else 0.
    pub retryable: u32,
    /// Rounds, the last included.
    pub rounds: u32,
    /// 1 if the digests of all memory were compared, and equal, else 0.
    pub verified: u32,
    /// 1 if the guest was paused at the deadline although that was longer than is allowed, else 0.
    pub forced: u32,
    /// From the beginning to the guest running on the target, in microseconds. Of a source.
    pub total_us: u64,
    /// The guest's standstill, in microseconds. Of a source.
    pub downtime_us: u64,
    /// Size of the guest's memory in bytes. Of a source.
    pub guest_bytes: u64,
    /// Bytes of pages on the wire.
    pub wire_bytes: u64,
}

// SAFETY: numbers.
unsafe impl Versioned for Outcome {
    const LEAST: usize = size_of::<Self>();
}

/// The numbers of a migration that completed.
#[derive(Clone, Copy)]
pub(crate) struct Numbers(Outcome);

/// How a job ended.
pub(crate) enum Ended {
    Completed(Numbers),
    Failed(Fault),
}

impl Numbers {
    const NONE: Outcome = Outcome {
        struct_size: size_of::<Outcome>(),
        code: Code::Ok as i32,
        place: Place::Target as i32,
        retryable: 0,
        rounds: 0,
        verified: 0,
        forced: 0,
        total_us: 0,
        downtime_us: 0,
        guest_bytes: 0,
        wire_bytes: 0,
    };
}

impl From<&Report> for Numbers {
    fn from(report: &Report) -> Self {
        Self(Outcome {
            rounds: report.rounds,
            verified: report.verified.into(),
            forced: report.forced.into(),
            total_us: us(report.total),
            downtime_us: us(report.downtime.total()),
            guest_bytes: report.guest_bytes.0,
            wire_bytes: report.page_wire_bytes.0,
            ..Self::NONE
        })
    }
}

impl From<&Received> for Numbers {
    fn from(received: &Received) -> Self {
        Self(Outcome {
            rounds: received.status.round,
            verified: received.verified.into(),
            wire_bytes: received.status.received.0,
            ..Self::NONE
        })
    }
}

impl Ended {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Completed(numbers) => numbers.0,
            Self::Failed(fault) => Outcome {
                code: fault.code as i32,
                place: fault.place as i32,
                retryable: fault.retryable.into(),
                ..Numbers::NONE
            },
        }
    }
}

impl Body {
    /// Looks at how the job ended, if it has.
    fn ended<R>(&self, look: impl FnOnce(&Ended) -> R) -> Result<R, Fault> {
        let mut stage = self.stage();
        let over = self.told.get().is_some_and(|events| events.has_ended());
        match std::mem::replace(&mut *stage, Stage::Between) {
            // Its thread has no more to do than to return.
            Stage::Running(job) if over => *stage = Stage::Ended(job.end()),
            other => *stage = other,
        }
        match &*stage {
            Stage::Ended(ended) => Ok(look(ended)),
            Stage::Running(_) => Err(Fault::new(Code::Nothing, "the migration is not over")),
            Stage::SetUp(_) | Stage::Between => {
                Err(Fault::new(Code::Order, "the job has not been started"))
            }
        }
    }
}

/// Waits until the migration is over, for at most `timeout_ms` milliseconds, forever if that is less
/// than 0. Returns how it ended: PAGELIFT_CODE_OK if the guest has moved. May be called again.
///
/// # Errors
/// What the migration ended in, which is then the last error of `job`; PAGELIFT_CODE_NOTHING when the time
/// is up; PAGELIFT_CODE_ORDER before the start; PAGELIFT_CODE_IN_CALLBACK from a callback of this job.
///
/// # Threads
/// From any thread but that of a callback of this job.
///
/// # Safety
/// `job` is a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_wait(job: *mut Job, timeout_ms: i64) -> Code {
    let wait = |body: &Body| {
        body.not_inside()?;
        if let Some(events) = body.told.get() {
            events.wait_end(limit(timeout_ms));
        }
        body.ended(|ended| match ended {
            Ended::Completed(_) => Ok(()),
            Ended::Failed(fault) => Err(fault.clone()),
        })?
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(job.cast_const(), wait) }
}

/// Writes how the migration ended to `outcome`. Does not wait.
///
/// # Errors
/// PAGELIFT_CODE_NOTHING while it runs; PAGELIFT_CODE_ORDER before the start.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `outcome` was set up by PAGELIFT_INIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_outcome(job: *const Job, outcome: *mut Outcome) -> Code {
    let look = |body: &Body| {
        let known = body.ended(Ended::outcome)?;
        // SAFETY: the caller's promise.
        unsafe { abi::write(outcome, &known) }
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(job, look) }
}
