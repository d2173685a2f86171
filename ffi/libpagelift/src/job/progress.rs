//! Progress of a job.

use std::time::Duration;

use pagelift_engine::{Phase as EnginePhase, SourceStatus, TargetStatus};

use super::{Body, Job};
use crate::abi::{self, Versioned};
use crate::error::Code;
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
        let now = body.told.get().and_then(|events| events.progress());
        // SAFETY: the caller's promise.
        unsafe { abi::write(progress, &now.unwrap_or(Progress::NOT_BEGUN)) }
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(job, look) }
}
