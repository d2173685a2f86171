//! The events of a job that runs.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use pagelift_engine::{
    Event as EngineEvent, JobEvents, Phase as EnginePhase, SourceStatus, TargetStatus,
    ThrottleShare,
};

use super::{Body, Job, Phase, Progress};
use crate::abi::{self, Versioned};
use crate::error::{Code, Fault};
use crate::handle;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum EventKind {
    /// The migration entered a phase. Each round of precopy is one.
    Phase = 1,
    /// The guest is throttled by another share.
    Throttled = 2,
    /// On the target: the source is lost during the hand-over, and waited for.
    SourceLost = 3,
    /// On the target: the source that was lost is back.
    SourceBack = 4,
    /// The migration is over: pagelift_job_wait says how. The last event.
    Ended = 5,
    /// Something that this version has no name for.
    Other = 6,
}

/// Something that happened in a migration. At most 256 wait to be taken; then the oldest are dropped.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Event {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// A pagelift_event_kind.
    pub kind: i32,
    /// The pagelift_phase of PAGELIFT_EVENT_KIND_PHASE; else 0.
    pub phase: i32,
    /// The round of PAGELIFT_PHASE_PRECOPY, from 1; else 0.
    pub round: u32,
    /// The share of PAGELIFT_EVENT_KIND_THROTTLED, 0 to 990 thousandths; else 0.
    pub throttle_permille: u32,
}

// SAFETY: numbers.
unsafe impl Versioned for Event {
    const LEAST: usize = size_of::<Self>();
}
impl From<EngineEvent> for Event {
    fn from(event: EngineEvent) -> Self {
        let (mut phase, mut round, mut throttle) = (Phase::None, 0, ThrottleShare::NONE);
        let kind = match event {
            EngineEvent::Phase(entered) => {
                phase = entered.into();
                if let EnginePhase::Precopy { round: number } = entered {
                    round = number;
                }
                EventKind::Phase
            }
            EngineEvent::Throttled(share) => {
                throttle = share;
                EventKind::Throttled
            }
            EngineEvent::SourceLost => EventKind::SourceLost,
            EngineEvent::SourceBack => EventKind::SourceBack,
            EngineEvent::Ended => EventKind::Ended,
            _ => EventKind::Other,
        };
        Self {
            struct_size: size_of::<Self>(),
            kind: kind as i32,
            phase: phase as i32,
            round,
            throttle_permille: throttle.as_permille().into(),
        }
    }
}

/// What the job of either side tells.
#[derive(Clone)]
pub(crate) enum Events {
    Out(JobEvents<SourceStatus>),
    In(JobEvents<TargetStatus>),
}

impl Events {
    fn next(&self) -> Option<EngineEvent> {
        match self {
            Self::Out(events) => events.next_event(),
            Self::In(events) => events.next_event(),
        }
    }

    fn wait(&self, limit: Option<Duration>) -> Option<EngineEvent> {
        match self {
            Self::Out(events) => events.wait_event(limit),
            Self::In(events) => events.wait_event(limit),
        }
    }

    pub(super) fn wait_end(&self, limit: Option<Duration>) -> bool {
        match self {
            Self::Out(events) => events.wait_end(limit),
            Self::In(events) => events.wait_end(limit),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Out(events) => events.has_ended(),
            Self::In(events) => events.has_ended(),
        }
    }

    /// Readable while an event waits.
    fn fd(&self) -> RawFd {
        match self {
            Self::Out(events) => events.as_fd().as_raw_fd(),
            Self::In(events) => events.as_fd().as_raw_fd(),
        }
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        match self {
            Self::Out(events) => events.status().as_ref().map(Progress::from),
            Self::In(events) => events.status().as_ref().map(Progress::from),
        }
    }
}

/// A time in milliseconds as C gives it: less than 0 is forever.
pub(super) fn limit(timeout_ms: i64) -> Option<Duration> {
    u64::try_from(timeout_ms).ok().map(Duration::from_millis)
}

/// A descriptor that is readable while an event waits to be taken, for poll(2) or epoll(7); -1 before
/// the start. It is the job's: do not read or close it.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `job` is a handle, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_fd(job: *const Job) -> i32 {
    let mut fd = -1;
    let look = |body: &Body| {
        fd = body.told()?.fd();
        Ok(())
    };
    // SAFETY: the caller's promise.
    let _ = unsafe { handle::with(job, look) };
    fd
}

/// Writes the oldest event that was not taken yet to `event`. Does not wait.
///
/// # Errors
/// PAGELIFT_CODE_NOTHING when there is none; PAGELIFT_CODE_ORDER before the start.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `event` was set up by PAGELIFT_INIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_next_event(job: *const Job, event: *mut Event) -> Code {
    // SAFETY: the caller's promise.
    unsafe { take(job, event, |body| Ok(body.told()?.next())) }
}

/// Waits for the next event for at most `timeout_ms` milliseconds, forever if that is less than 0, and
/// writes it to `event`.
///
/// # Errors
/// PAGELIFT_CODE_NOTHING when the time is up, and after the last event; PAGELIFT_CODE_ORDER before the
/// start; PAGELIFT_CODE_IN_CALLBACK from a callback of this job.
///
/// # Threads
/// From any thread but that of a callback of this job.
///
/// # Safety
/// `event` was set up by PAGELIFT_INIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_wait_event(
    job: *const Job,
    timeout_ms: i64,
    event: *mut Event,
) -> Code {
    let wait = |body: &Body| {
        body.not_inside()?;
        Ok(body.told()?.wait(limit(timeout_ms)))
    };
    // SAFETY: the caller's promise.
    unsafe { take(job, event, wait) }
}

/// Takes an event, unless there is no place for it.
///
/// # Safety
/// `job` is a handle; `event` was set up by PAGELIFT_INIT.
unsafe fn take(
    job: *const Job,
    event: *mut Event,
    take: impl FnOnce(&Body) -> Result<Option<EngineEvent>, Fault>,
) -> Code {
    // SAFETY: the caller's promise.
    unsafe {
        handle::with(job, |body: &Body| {
            abi::check(event)?;
            let taken = take(body)?.ok_or_else(|| Fault::new(Code::Nothing, "no event"))?;
            abi::write(event, &Event::from(taken))
        })
    }
}
