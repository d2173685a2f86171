//! What the kernel says of a TCP socket.
//!
//! Cost: a system call each.

#![allow(
    unsafe_code,
    reason = "getsockopt(2) and ioctl(2) for what rustix does not know"
)]

use std::ffi::c_int;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Bytes that are not acknowledged, sent or not (linux/sockios.h; its value is `TIOCOUTQ`'s).
const SIOCOUTQ: libc::Ioctl = libc::TIOCOUTQ;

/// Bytes that are not sent (linux/sockios.h).
const SIOCOUTQNSD: libc::Ioctl = 0x894b;

/// What a socket's queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    /// Bytes that were written and not sent.
    pub(crate) unsent: u64,
    /// Bytes that were sent and not acknowledged.
    pub(crate) under_way: u64,
}

/// Looks at a connection's sending queue.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn queue(stream: &TcpStream) -> io::Result<Queue> {
    // The first may grow smaller before the second is read, never larger: only the caller writes.
    let unsent = queued(stream, SIOCOUTQNSD)?;
    let unacknowledged = queued(stream, SIOCOUTQ)?;
    Ok(Queue {
        unsent: unsent.min(unacknowledged),
        under_way: unacknowledged.saturating_sub(unsent),
    })
}

fn queued(stream: &TcpStream, what: libc::Ioctl) -> io::Result<u64> {
    let mut bytes: c_int = 0;
    // SAFETY: both requests write one `int`, which outlives the call.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), what, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Everything the kernel has measured of a connection (`TCP_INFO`, tcp(7)). What an older kernel
/// does not know is 0.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn tcp_info(stream: &TcpStream) -> io::Result<libc::tcp_info> {
    // SAFETY: the structure is made of integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `len` bytes of `info`, both of which outlive the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info)
}
