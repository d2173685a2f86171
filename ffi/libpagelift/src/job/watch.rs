//! A job that runs: its events, and where it is.

use std::os::fd::AsRawFd;
use std::time::Duration;

use pagelift_engine::{
    Event as EngineEvent, JobEvents, Phase as EnginePhase, SourceStatus, TargetStatus,
    ThrottleShare,
};

use super::{Body, Job};
use crate::abi::{self, Versioned};
use crate::error::{Code, Fault};
use crate::handle;

/// The phase of a migration, as this side sees it. Between two looks phases may have been skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Phase {
    /// It has not begun.
    None = 0,
    /// The sides do not know yet whether the guest fits; a target waits for its source.
    Handshake = 1,
    /// The side prepares its memory.
    Preparing = 2,
    /// The guest runs on the source, and its pages are sent, round after round.
    Precopy = 3,
    /// The guest is being stopped.
    Stopping = 4,
    /// It stands still, and the pages it wrote last are sent.
    LastRound = 5,
    /// The device state is saved, sent and loaded.
    DeviceState = 6,
    /// The target has everything; the guest is the source's until it says otherwise.
    Ready = 7,
    /// The source has relinquished the guest, and the target is to run it.
    HandingOver = 8,
    /// The guest runs on the target.
    Completed = 9,
    /// The migration ended without completing.
    Failed = 10,
}

impl From<EnginePhase> for Phase {
    fn from(phase: EnginePhase) -> Self {
        match phase {
            EnginePhase::Handshake => Self::Handshake,
            EnginePhase::Preparing => Self::Preparing,
            EnginePhase::Precopy { .. } => Self::Precopy,
            EnginePhase::Stopping => Self::Stopping,
            EnginePhase::LastRound => Self::LastRound,
            EnginePhase::DeviceState => Self::DeviceState,
            EnginePhase::Ready => Self::Ready,
            EnginePhase::HandingOver => Self::HandingOver,
            EnginePhase::Completed => Self::Completed,
            EnginePhase::Failed => Self::Failed,
            _ => Self::None,
        }
    }
}

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

/// Where a migration is. What is not known, or does not concern this side, is 0.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Progress {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// A pagelift_phase.
    pub phase: i32,
    /// The round of precopy, from 1.
    pub round: u32,
    /// Bytes of pages on the wire so far.
    pub wire_bytes: u64,
    /// Bytes of guest memory that the round has still to send.
    pub left_bytes: u64,
    /// Bytes of distinct pages that the guest writes in a second.
    pub dirty_bytes_per_s: u64,
    /// Bytes that the target places in a second.
    pub link_bytes_per_s: u64,
    /// The downtime if the guest were paused now, in microseconds.
    pub forecast_us: u64,
    /// The downtime that is allowed by now, in microseconds.
    pub downtime_us: u64,
    /// Share of its time that the guest is kept from running, 0 to 990 thousandths.
    pub throttle_permille: u32,
    /// 1 if the guest is paused although the forecast is longer than is allowed, else 0.
    pub forced: u32,
}

// SAFETY: numbers.
unsafe impl Versioned for Event {
    const LEAST: usize = size_of::<Self>();
}
// SAFETY: numbers.
unsafe impl Versioned for Progress {
    const LEAST: usize = size_of::<Self>();
}

pub(super) fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Progress {
    /// Of a migration that has not begun.
    const NOT_BEGUN: Self = Self {
        struct_size: size_of::<Self>(),
        phase: Phase::None as i32,
        round: 0,
        wire_bytes: 0,
        left_bytes: 0,
        dirty_bytes_per_s: 0,
        link_bytes_per_s: 0,
        forecast_us: 0,
        downtime_us: 0,
        throttle_permille: 0,
        forced: 0,
    };
}

impl From<&SourceStatus> for Progress {
    fn from(status: &SourceStatus) -> Self {
        Self {
            phase: Phase::from(status.phase) as i32,
            round: status.round,
            wire_bytes: status.sent.0,
            left_bytes: status.left.bytes().0,
            dirty_bytes_per_s: status.dirty.map_or(0, |rate| rate.0),
            link_bytes_per_s: status.link.map_or(0, |rate| rate.0),
            forecast_us: status.forecast.map_or(0, |time| us(time.likely())),
            downtime_us: us(status.limit),
            throttle_permille: status.throttle.as_permille().into(),
            forced: status.forced.into(),
            ..Self::NOT_BEGUN
        }
    }
}

impl From<&TargetStatus> for Progress {
    fn from(status: &TargetStatus) -> Self {
        Self {
            phase: Phase::from(status.phase) as i32,
            round: status.round,
            wire_bytes: status.received.0,
            ..Self::NOT_BEGUN
        }
    }
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
pub(super) enum Events {
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

    fn progress(&self) -> Option<Progress> {
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
        fd = body.told()?.fd.as_raw_fd();
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
    unsafe { take(job, event, |body| Ok(body.told()?.events.next())) }
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
        Ok(body.told()?.events.wait(limit(timeout_ms)))
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

/// Writes where the migration is to `progress`; that of one that has ended stays.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `progress` was set up by PAGELIFT_INIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_progress(job: *const Job, progress: *mut Progress) -> Code {
    let look = |body: &Body| {
        let now = body.told.get().and_then(|told| told.events.progress());
        // SAFETY: the caller's promise.
        unsafe { abi::write(progress, &now.unwrap_or(Progress::NOT_BEGUN)) }
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(job, look) }
}
