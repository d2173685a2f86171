//! mlock(2), and the limit on it.

#![allow(unsafe_code, reason = "memory is locked by its address")]

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::SysError;
use crate::units::ByteCount;

/// Populates `len_bytes` bytes from `start` on and keeps them in memory.
///
/// # Errors
/// When not all of them are mapped, there is not so much memory, or RLIMIT_MEMLOCK does not allow it:
/// the message then names the limit, and how to raise it.
pub(crate) fn lock_memory(start: *mut u8, len_bytes: usize) -> Result<(), SysError> {
    // SAFETY: no content changes, whatever is at these addresses.
    unsafe { rustix::mm::mlock(start.cast(), len_bytes) }
        .map_err(|errno| refused(errno, ByteCount(len_bytes as u64)))
}

/// Undoes [`lock_memory`], however often it was called.
///
/// # Errors
/// When not all of it is mapped.
pub(crate) fn unlock_memory(start: *mut u8, len_bytes: usize) -> Result<(), SysError> {
    // SAFETY: as above.
    unsafe { rustix::mm::munlock(start.cast(), len_bytes) }
        .map_err(|errno| SysError::failed("munlock", errno))
}

/// Why `wanted` more bytes could not be locked. ENOMEM stands for the limit, for a lack of memory
/// and for memory that is not mapped; mlock(2).
fn refused(errno: Errno, wanted: ByteCount) -> SysError {
    let allowed = getrlimit(Resource::Memlock).current;
    let locked = locked_bytes();
    match allowed {
        Some(allowed)
            if matches!(errno, Errno::NOMEM | Errno::PERM) && locked.0 + wanted.0 > allowed =>
        {
            SysError::Unsupported {
                what: format!(
                    "{wanted} are to be pinned beside {locked} that are, and RLIMIT_MEMLOCK allows \
                     {}",
                    ByteCount(allowed)
                ),
                remedy:
                    "raise it (`ulimit -l unlimited`, LimitMEMLOCK=infinity in a systemd unit, \
                         or `prlimit --memlock=unlimited --pid PID`), or grant CAP_IPC_LOCK"
                        .into(),
            }
        }
        _ => SysError::failed("mlock", errno),
    }
}

/// What this process has locked; proc_pid_status(5).
fn locked_bytes() -> ByteCount {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    ByteCount(kib.unwrap_or(0) << 10)
}
