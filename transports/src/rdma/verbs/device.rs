//! RDMA devices, and memory that is registered with them.

#![allow(unsafe_code, reason = "calls of libibverbs")]

use std::ffi::CStr;
use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Resource, getrlimit};

use super::abi::{ACCESS_LOCAL_WRITE, ACCESS_REMOTE_WRITE, Context, DeviceAttributes, Mr, Pd};
use super::library::{Library, library};

/// A device that librdmacm has opened, which it keeps open as long as the process lives.
pub(in super::super) struct Device {
    pub(super) library: &'static Library,
    pub(super) context: *mut Context,
    pub(super) pd: *mut Pd,
    pub(in super::super) limits: Limits,
}

// SAFETY: the library's calls may be made from all threads.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// What a device can do at most.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Limits {
    /// Bytes of memory that can be registered in one piece.
    pub(in super::super) region_bytes: u64,
    /// Pieces.
    pub(in super::super) regions: u32,
    /// Requests in the queue of a connection.
    pub(in super::super) requests: u32,
    /// Completions in a queue.
    pub(in super::super) completions: u32,
}

impl Device {
    /// The device behind `context`. There is one for each, with one protection domain, so that its keys
    /// work on all connections.
    pub(super) fn of(context: *mut Context) -> io::Result<&'static Self> {
        static DEVICES: Mutex<Vec<&'static Device>> = Mutex::new(Vec::new());
        let library = library()?;
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = devices.iter().find(|device| device.context == context) {
            return Ok(device);
        }
        // SAFETY: a structure of numbers, for which zero is a value.
        let mut attributes: DeviceAttributes = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, and the structure is the library's.
        let status = unsafe { (library.ibv_query_device)(context, &raw mut attributes) };
        if status != 0 {
            return Err(io::Error::from_raw_os_error(status));
        }
        // SAFETY: as above.
        let pd = unsafe { (library.ibv_alloc_pd)(context) };
        if pd.is_null() {
            return Err(io::Error::last_os_error());
        }
        let at_least_one = |value: i32| u32::try_from(value).unwrap_or(0).max(1);
        let device: &'static Self = Box::leak(Box::new(Self {
            library,
            context,
            pd,
            limits: Limits {
                region_bytes: attributes.max_mr_size,
                regions: at_least_one(attributes.max_mr),
                requests: at_least_one(attributes.max_qp_requests),
                completions: at_least_one(attributes.max_cq_entries),
            },
        }));
        devices.push(device);
        Ok(device)
    }

    /// Its name, as `rdma link` shows it.
    pub(in super::super) fn name(&self) -> String {
        // SAFETY: the first member of a context is its device, whose name is a C string that stays.
        unsafe {
            let device = self.context.cast::<*mut std::ffi::c_void>().read();
            let name = (self.library.ibv_get_device_name)(device);
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }

    /// Registers `len` bytes from `start` on, which pins them.
    ///
    /// # Errors
    /// When they are not all mapped or there is not so much memory, or the limit on it does not allow
    /// that; the message then names the limit and how to raise it.
    ///
    /// # Safety
    /// They must stay mapped until what is returned is dropped, and no Rust reference may be made to
    /// them while a device may write there.
    pub(in super::super) unsafe fn register(
        &'static self,
        start: *mut u8,
        len: usize,
        access: Access,
    ) -> io::Result<Registered> {
        let access = match access {
            Access::Local => ACCESS_LOCAL_WRITE,
            Access::RemoteWrite => ACCESS_LOCAL_WRITE | ACCESS_REMOTE_WRITE,
        };
        // SAFETY: the protection domain is never freed; the caller has promised the rest.
        let mr = unsafe { (self.library.ibv_reg_mr)(self.pd, start.cast(), len, access) };
        match mr.is_null() {
            true => Err(refused(
                io::Error::last_os_error(),
                len as u64,
                &self.name(),
            )),
            false => Ok(Registered { device: self, mr }),
        }
    }
}

/// Who may do what with registered memory.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Access {
    /// The device, for requests of this side.
    Local,
    /// The other side may write it, too.
    RemoteWrite,
}

/// Memory that is registered until it is dropped.
pub(in super::super) struct Registered {
    device: &'static Device,
    mr: *mut Mr,
}

// SAFETY: as for the device.
unsafe impl Send for Registered {}

impl Registered {
    /// Where it begins, and behind its end.
    pub(in super::super) fn addresses(&self) -> std::ops::Range<u64> {
        // SAFETY: the structure is there until it is deregistered.
        let mr = unsafe { &*self.mr };
        let start = mr.address.addr() as u64;
        start..start + mr.length as u64
    }

    /// The key for requests of this side.
    pub(in super::super) fn local_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.mr).local_key }
    }

    /// The key for requests of the other side.
    pub(in super::super) fn remote_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.mr).remote_key }
    }

    /// Deregisters it: its keys are worth nothing when this has returned, and the device does not touch
    /// the memory any more.
    ///
    /// # Errors
    /// When the device refuses; it is registered still.
    pub(in super::super) fn deregister(&mut self) -> io::Result<()> {
        if self.mr.is_null() {
            return Ok(());
        }
        // SAFETY: it is registered, and this is the only handle on it.
        match unsafe { (self.device.library.ibv_dereg_mr)(self.mr) } {
            0 => {
                self.mr = std::ptr::null_mut();
                Ok(())
            }
            status => Err(io::Error::from_raw_os_error(status)),
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // There is nobody to hear of it; whoever must know deregisters first.
        let _ = self.deregister();
    }
}

/// Why `wanted` more bytes were not registered. ENOMEM stands for the limit and for a lack of memory.
fn refused(error: io::Error, wanted: u64, device: &str) -> io::Error {
    let pinned = pinned_bytes();
    let text = match getrlimit(Resource::Memlock).current {
        Some(allowed)
            if error.raw_os_error() == Some(libc::ENOMEM) && pinned + wanted > allowed =>
        {
            format!(
                "{} MiB are to be pinned beside {} MiB that are, and RLIMIT_MEMLOCK allows {} MiB; raise \
                 it (`ulimit -l unlimited`, LimitMEMLOCK=infinity in a systemd unit, or `prlimit \
                 --memlock=unlimited --pid PID`), or grant CAP_IPC_LOCK",
                wanted.div_ceil(1 << 20),
                pinned >> 20,
                allowed >> 20
            )
        }
        _ => {
            let why = match error.raw_os_error() {
                Some(libc::EFAULT) => {
                    "it cannot all be populated; is there so much memory, and room in the file system \
                     that it is in (df)?"
                }
                _ => "",
            };
            let mib = wanted.div_ceil(1 << 20);
            format!("{device} cannot register {mib} MiB: {error}; {why}")
        }
    };
    io::Error::new(error.kind(), text)
}

/// What devices have pinned of this process; proc_pid_status(5).
fn pinned_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
