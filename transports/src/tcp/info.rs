//! `TCP_INFO`: what the kernel has measured of a connection.
//!
//! Cost: a system call, 0.5 us.

#![allow(
    unsafe_code,
    reason = "getsockopt(2) for a structure that rustix does not know"
)]

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Everything the kernel has measured of a connection (`TCP_INFO`, tcp(7)). What an older kernel
/// does not know is 0.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn tcp_info(stream: &TcpStream) -> io::Result<libc::tcp_info> {
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
