//! Limits, which can be changed while a job runs.

use std::time::Duration;

use pagelift_engine::units::Rate;
use pagelift_engine::{
    AtDeadline as EngineAtDeadline, Downtime, PolicyKind, Settings, ThrottleShare,
};

use super::{Body, Job};
use crate::abi::{self, Versioned};
use crate::error::{Code, Fault};
use crate::handle;

/// What is done about a guest that writes faster than the link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Policy {
    /// Throttled as little as will do.
    Predictive = 0,
    /// Throttled more and more, as QEMU's auto-converge does.
    Classic = 1,
    /// Never throttled. What a job does whose guest has no callback throttle.
    None = 2,
}

/// What happens when the deadline has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum AtDeadline {
    /// The migration ends, and the guest stays.
    Cancel = 0,
    /// The throttle ends; the guest moves as soon as it fits the downtime by itself.
    StopTrying = 1,
    /// The guest moves, however long the downtime.
    Force = 2,
}

/// Limits that may be changed while the guest moves. pagelift_job_limits gives those in force.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Limits {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// Longest downtime allowed at first, in microseconds.
    pub downtime_us: u64,
    /// Longest downtime once it has grown, which it does while rounds get nowhere. Not less.
    pub downtime_most_us: u64,
    /// Longest time from the beginning to the guest's pause, in microseconds. 0: none.
    pub deadline_us: u64,
    /// A pagelift_at_deadline.
    pub at_deadline: i32,
    /// A pagelift_policy.
    pub policy: i32,
    /// Cap on everything that is sent, in bytes per second. 0: as fast as the link carries.
    pub bytes_per_s: u64,
    /// The strongest throttle, 1 to 990 thousandths of the guest's time. 0: the policy's own.
    pub throttle_most_permille: u64,
}

// SAFETY: numbers.
unsafe impl Versioned for Limits {
    const LEAST: usize = size_of::<Self>();
}

impl Limits {
    fn of(settings: &Settings) -> Self {
        let limits = &settings.limits;
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let at_deadline = match limits.at_deadline {
            EngineAtDeadline::Cancel => AtDeadline::Cancel,
            EngineAtDeadline::StopTrying => AtDeadline::StopTrying,
            EngineAtDeadline::Force => AtDeadline::Force,
        };
        let policy = match limits.policy {
            PolicyKind::Predictive => Policy::Predictive,
            PolicyKind::Classic => Policy::Classic,
            PolicyKind::None => Policy::None,
        };
        let throttle_most = limits.throttle_most.map_or(0, ThrottleShare::as_permille);
        Self {
            struct_size: size_of::<Self>(),
            downtime_us: us(limits.downtime.least()),
            downtime_most_us: us(limits.downtime.most()),
            deadline_us: limits.deadline.map_or(0, us),
            at_deadline: at_deadline as i32,
            policy: policy as i32,
            bytes_per_s: settings.bandwidth.map_or(0, |rate| rate.0),
            throttle_most_permille: throttle_most.into(),
        }
    }

    fn settings(&self) -> Result<Settings, Fault> {
        let bad = |what: &str| Fault::argument(format!("{what} is out of range"));
        let us = Duration::from_micros;
        let mut settings = Settings::default();
        let limits = &mut settings.limits;
        limits.downtime = Downtime::growing(us(self.downtime_us), us(self.downtime_most_us))
            .ok_or_else(|| bad("downtime_most_us"))?;
        limits.deadline = (self.deadline_us > 0).then_some(us(self.deadline_us));
        limits.at_deadline = match self.at_deadline {
            0 => EngineAtDeadline::Cancel,
            1 => EngineAtDeadline::StopTrying,
            2 => EngineAtDeadline::Force,
            _ => return Err(bad("at_deadline")),
        };
        limits.policy = match self.policy {
            0 => PolicyKind::Predictive,
            1 => PolicyKind::Classic,
            2 => PolicyKind::None,
            _ => return Err(bad("policy")),
        };
        limits.throttle_most = match self.throttle_most_permille {
            0 => None,
            permille if permille <= ThrottleShare::MOST.as_permille().into() => {
                Some(ThrottleShare::permille(permille as u16))
            }
            _ => return Err(bad("throttle_most_permille")),
        };
        settings.bandwidth = (self.bytes_per_s > 0).then_some(Rate(self.bytes_per_s));
        Ok(settings)
    }
}

/// Writes the limits as they were last asked for to `limits`.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `limits` was set up by PAGELIFT_INIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_limits(job: *const Job, limits: *mut Limits) -> Code {
    // SAFETY: the caller's promise.
    unsafe {
        handle::with(job, |body: &Body| {
            abi::write(limits, &Limits::of(&body.controls.settings()))
        })
    }
}

/// Changes the limits, at any time. While the guest moves they are in force at once; after its pause only
/// the cap on the rate is, and after the hand-over none. On a target they have no effect.
///
/// # Errors
/// PAGELIFT_CODE_ARGUMENT with what is wrong; nothing is changed.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `limits` comes from pagelift_job_limits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_change(job: *mut Job, limits: *const Limits) -> Code {
    // SAFETY: the caller's promise.
    unsafe {
        handle::with(job.cast_const(), |body: &Body| {
            let settings = abi::read(limits)?.settings()?;
            body.controls.change(|old| *old = settings);
            Ok(())
        })
    }
}
