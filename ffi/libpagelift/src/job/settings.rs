//! What is set before a job starts, and what can be changed while it runs.

use std::ffi::c_char;
use std::time::Duration;

use pagelift_engine::units::{ByteCount, Rate};
use pagelift_engine::wire::MAX_CHANNELS;
use pagelift_engine::{
    AtDeadline as EngineAtDeadline, CompressSetting, CpuLimit, DedupSetting, DeltaCacheSize,
    Downtime, GuestProperty, Outgoing, PolicyKind, Settings, SourceGuest, ThrottleShare,
};

use super::{Body, Job, Stage};
use crate::abi::{self, Versioned};
use crate::error::{Code, Fault, text};
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

/// What is set before the start, of a guest that leaves. Zeros and nulls mean the default.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Options {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// Data connections, 1 to 64. 0: one for each processor, at most 8.
    pub channels: u32,
    /// 1: the digests of all memory are compared before the hand-over, which lengthens the downtime by
    /// the time to read all memory.
    pub verify: u32,
    /// "auto" (the default), "none", "lz4", "zstd", "zstd:LEVEL" (-50 to 19) or "xbzrle".
    pub compress: *const c_char,
    /// "auto" (the default), "on" or "off": whether pages that the target has already are not sent.
    pub dedup: *const c_char,
    /// Most threads and processor time of the data connections: "2", "150%" or "2,150%". Null: no limit.
    pub cpu_limit: *const c_char,
    /// Bytes for the contents that deltas are made against. 0: room for all pages, but at most an
    /// eighth of the memory available.
    pub delta_cache_bytes: u64,
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

// SAFETY: numbers and pointers, all of which may be zero.
unsafe impl Versioned for Options {
    const LEAST: usize = size_of::<Self>();
}
// SAFETY: numbers.
unsafe impl Versioned for Limits {
    const LEAST: usize = size_of::<Self>();
}

/// Options that were understood.
#[derive(Clone, Copy, Default)]
pub(super) struct Chosen {
    channels: Option<u16>,
    verify: bool,
    compress: CompressSetting,
    dedup: DedupSetting,
    cpu: CpuLimit,
    delta_cache: Option<ByteCount>,
}

/// The value that `given` writes down, or the default if it is null.
///
/// # Safety
/// `given` is null or a string.
unsafe fn parsed<T>(given: *const c_char, what: &str) -> Result<T, Fault>
where
    T: std::str::FromStr + Default,
    T::Err: std::fmt::Display,
{
    if given.is_null() {
        return Ok(T::default());
    }
    // SAFETY: the caller's promise.
    let text = unsafe { text(given, what)? };
    text.parse()
        .map_err(|error| Fault::argument(format!("{what}: {error}")))
}

impl Chosen {
    /// Understands `options`.
    ///
    /// # Safety
    /// Its texts can be read.
    unsafe fn from(options: &Options) -> Result<Self, Fault> {
        let channels = match options.channels {
            0 => None,
            channels if channels <= MAX_CHANNELS.into() => Some(channels as u16),
            channels => return Err(Fault::argument(format!("{channels} channels are too many"))),
        };
        if options.verify > 1 {
            return Err(Fault::argument("verify is 0 or 1"));
        }
        // SAFETY: the caller's promise.
        let (compress, dedup, cpu) = unsafe {
            (
                parsed(options.compress, "compress")?,
                parsed(options.dedup, "dedup")?,
                parsed(options.cpu_limit, "cpu_limit")?,
            )
        };
        let bytes = options.delta_cache_bytes;
        Ok(Self {
            channels,
            verify: options.verify == 1,
            compress,
            dedup,
            cpu,
            delta_cache: (bytes > 0).then_some(ByteCount(bytes)),
        })
    }

    pub(super) fn apply<G: SourceGuest + 'static>(self, outgoing: Outgoing<G>) -> Outgoing<G> {
        let cache = self.delta_cache.map(DeltaCacheSize::Bytes);
        let outgoing = outgoing
            .verify(self.verify)
            .compress(self.compress)
            .dedup(self.dedup)
            .cpu_limit(self.cpu)
            .delta_cache(cache.unwrap_or(DeltaCacheSize::Auto));
        match self.channels {
            Some(channels) => outgoing.channels(channels),
            None => outgoing,
        }
    }
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

/// Does something with a job that was not started.
///
/// # Safety
/// `job` is a handle.
unsafe fn before_start(
    job: *mut Job,
    change: impl FnOnce(&mut super::start::SetUp) -> Result<(), Fault>,
) -> Code {
    let change = |body: &Body| match &mut *body.stage() {
        Stage::SetUp(set_up) => change(set_up),
        _ => Err(Fault::new(Code::Order, "the job was started already")),
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(job.cast_const(), change) }
}

/// Sets options of a guest that leaves, before the start. Those of a target are ignored.
///
/// # Errors
/// PAGELIFT_CODE_ARGUMENT with what is wrong; nothing is changed.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// `options` was set up by PAGELIFT_INIT; its texts can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_configure(job: *mut Job, options: *const Options) -> Code {
    // SAFETY: the caller's promise.
    unsafe {
        before_start(job, |set_up| {
            set_up.chosen = Chosen::from(&abi::read(options)?)?;
            Ok(())
        })
    }
}

/// Adds something that must be the same on both sides, such as a machine type, before the start. A target
/// that has it otherwise refuses the guest.
///
/// # Threads
/// From any thread, also from callbacks.
///
/// # Safety
/// Both texts can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_job_add_property(
    job: *mut Job,
    name: *const c_char,
    value: *const c_char,
) -> Code {
    // SAFETY: the caller's promise.
    unsafe {
        before_start(job, |set_up| {
            let (name, value) = (text(name, "the name")?, text(value, "the value")?);
            set_up.properties.push(GuestProperty::new(name, value));
            Ok(())
        })
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
