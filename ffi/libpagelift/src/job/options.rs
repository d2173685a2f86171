//! Settings of a job before it starts.

use std::ffi::c_char;

use pagelift_engine::units::ByteCount;
use pagelift_engine::wire::MAX_CHANNELS;
use pagelift_engine::{
    CompressSetting, CpuLimit, DedupSetting, DeltaCacheSize, GuestProperty, Outgoing, SourceGuest,
};

use super::start::SetUp;
use super::{Body, Job, Stage};
use crate::abi::{self, Versioned};
use crate::error::{Code, Fault};
use crate::handle;
use crate::text::text;

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

// SAFETY: numbers and pointers, all of which may be zero.
unsafe impl Versioned for Options {
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

/// Does something with a job that was not started.
///
/// # Safety
/// `job` is a handle.
unsafe fn before_start(
    job: *mut Job,
    change: impl FnOnce(&mut SetUp) -> Result<(), Fault>,
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
