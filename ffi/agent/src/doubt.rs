//! Keeping a QEMU from being started by a plain `cont`: a drive that cannot be activated.
//!
//! QEMU activates all of its disks before it lets a guest go on that has arrived, or that was
//! migrated away, and refuses `cont` if one of them fails. So a drive is added that no device uses,
//! with a tiny image in this process's memory, and the agent holds the lock that the drive needs: a
//! share of byte 201 of the file, by which QEMU says that nobody else may write. The guest has no
//! part in it, and whoever settles the doubt removes the drive. (A block node without a drive would
//! do for guests without disks only: QEMU does not get to it behind other disks.)
//!
//! It takes a QEMU that adds inactive drives (10.0); an older one refuses, which is said.

#![allow(
    unsafe_code,
    reason = "memory files and locks are not in the standard library"
)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::OnceLock;
use std::time::Instant;

use pagelift_agent_protocol::DOUBT_DRIVE;

use crate::complain;
use crate::own_monitor::OwnMonitor;
use crate::rollback::Monitor;

/// Where QEMU's locks say "others may not write": 200 for the kind, 1 for writing.
const LOCKED_BYTE: libc::off_t = 201;

/// Bytes of a cluster of the image, the smallest there is.
const CLUSTER: u64 = 512;

/// The image, which is locked for as long as the process lives.
static IMAGE: OnceLock<File> = OnceLock::new();

/// Makes QEMU refuse `cont` until the drive is removed. Failures, also to reach QEMU until `deadline`,
/// go to standard error.
pub(crate) fn hold(monitor: &OwnMonitor, deadline: Instant) {
    match try_hold(monitor, deadline) {
        Ok(true) => complain(format_args!(
            "the guest may be another's: 'cont' is refused until 'pagelift settle' has said whose \
             it is"
        )),
        Ok(false) => {}
        Err(error) => complain(format_args!(
            "the guest may be another's, and 'cont' cannot be kept from starting it: {error}; run \
             'pagelift settle'"
        )),
    }
}

/// Whether it was not held before.
fn try_hold(monitor: &OwnMonitor, deadline: Instant) -> io::Result<bool> {
    let image = match IMAGE.get() {
        Some(image) => image,
        None => {
            let image = locked_image()?;
            IMAGE.get_or_init(|| image)
        }
    };
    let mut monitor = Monitor::connect_until(monitor, deadline)?;
    let fd = image.as_raw_fd();
    let command = format!(
        r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"drive_add 0 if=none,id={DOUBT_DRIVE},format=qcow2,active=off,file.driver=file,file.filename=/proc/self/fd/{fd},file.locking=on"}}}}"#
    );
    // The human monitor's errors are text that it returns.
    let (_, reply) = monitor.persist(&command)?;
    if reply.contains("OK") {
        return Ok(true);
    }
    match reply.contains("Duplicate") {
        true => Ok(false),
        false => Err(io::Error::other(reply)),
    }
}

/// An image that others can open, and not activate.
fn locked_image() -> io::Result<File> {
    // SAFETY: the name is a C string that lives through the call.
    let fd = unsafe { libc::memfd_create(c"pagelift-doubt".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
    let mut image = unsafe { File::from_raw_fd(fd) };
    image.write_all(&empty_image())?;
    // SAFETY: all zeros is a valid flock: no lock, from the beginning of the file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_RDLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = LOCKED_BYTE;
    lock.l_len = 1;
    // SAFETY: `lock` is a whole flock that lives through the call.
    let result = unsafe { libc::fcntl(image.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    match result {
        0 => Ok(image),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A disk of one cluster in the format qcow2, version 3, with nothing on it: header, table of
/// reference counts, their block, and the table of clusters (QEMU's docs/interop/qcow2).
fn empty_image() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(b"QFI\xfb");
    bytes.extend(3_u32.to_be_bytes());
    bytes.extend([0; 12]); // no backing file
    bytes.extend(CLUSTER.trailing_zeros().to_be_bytes());
    bytes.extend(CLUSTER.to_be_bytes()); // size of the disk
    bytes.extend([0; 4]); // not encrypted
    bytes.extend(1_u32.to_be_bytes()); // entries of the table of clusters
    bytes.extend((3 * CLUSTER).to_be_bytes()); // where it is
    bytes.extend(CLUSTER.to_be_bytes()); // where the table of reference counts is
    bytes.extend(1_u32.to_be_bytes()); // its clusters
    bytes.extend([0; 12]); // no snapshots
    bytes.extend([0; 24]); // no features
    bytes.extend(4_u32.to_be_bytes()); // a reference count has 2^4 bits
    bytes.extend(104_u32.to_be_bytes()); // length of the header
    let at = |bytes: &mut Vec<u8>, cluster: u64| {
        bytes.resize(
            usize::try_from(cluster * CLUSTER).expect("a few clusters"),
            0,
        );
    };
    at(&mut bytes, 1);
    bytes.extend((2 * CLUSTER).to_be_bytes());
    at(&mut bytes, 2);
    bytes.extend([0, 1].repeat(4)); // each of the four clusters is used once
    at(&mut bytes, 4);
    bytes
}
