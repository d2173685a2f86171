//! The few socket calls that the standard library lacks: credentials, sending with a
//! descriptor and without SIGPIPE, waiting for one of two descriptors.

#![allow(unsafe_code, reason = "socket calls that the standard library lacks")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use libc::{c_int, c_void};

/// The credentials of a unix socket, unix(7): of a connected one, those of the other end as of
/// its connect or listen; of a listening one, its own as of its listen.
pub(crate) fn credentials(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    option(socket, libc::SO_PEERCRED, &mut credentials)?;
    Ok(credentials)
}

/// Whether a descriptor is a socket that listens.
pub(crate) fn is_listening(socket: BorrowedFd<'_>) -> bool {
    let mut flag: c_int = 0;
    option(socket, libc::SO_ACCEPTCONN, &mut flag).is_ok() && flag != 0
}

/// Reads an option of the socket level into `value`, a plain C value.
fn option<T: Copy>(socket: BorrowedFd<'_>, name: c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`, to it; the callers'
    // types are structures of integers, for which all bytes are valid.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_mut(value).cast::<c_void>(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends all of `bytes`; `fd`, if any, travels with the first of them.
///
/// # Errors
/// As send(2); a peer that is gone is `BrokenPipe` and raises no signal.
pub(crate) fn send(
    stream: &UnixStream,
    mut bytes: &[u8],
    mut fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = match send_some(stream, bytes, fd) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        bytes = &bytes[sent..];
        fd = None;
    }
    Ok(())
}

/// Connects to the unix socket at `path`, waiting at most `timeout` while its backlog is full.
///
/// # Errors
/// As connect(2); a full backlog is `WouldBlock`.
pub(crate) fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    // SAFETY: all zeros is a valid sockaddr_un: an address with an empty path.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = libc::c_char::from_le_bytes([*from]);
    }
    // SAFETY: socket(2) takes its arguments by value.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // The limit for sending is the one for connecting as well, socket(7); the standard
    // library can set it on a connected socket only.
    stream.set_write_timeout(Some(timeout))?;
    // SAFETY: `address` is a whole sockaddr_un that lives through the call.
    let result = unsafe {
        libc::connect(
            stream.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(stream)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Room for the control message of one descriptor, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

fn send_some(stream: &UnixStream, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; 64]);
    // SAFETY: all zeros is a valid msghdr: null pointers with lengths of zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(fd) = fd {
        let payload_bytes = size_of::<c_int>() as u32;
        message.msg_control = control.0.as_mut_ptr().cast::<c_void>();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute sizes.
        let (space, length) = unsafe {
            (
                libc::CMSG_SPACE(payload_bytes),
                libc::CMSG_LEN(payload_bytes),
            )
        };
        message.msg_controllen = space as usize;
        // SAFETY: msg_control points to 64 aligned bytes, more than CMSG_SPACE of one int
        // (24), so the first header and its data lie inside and are ours to write.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = length as usize;
            libc::CMSG_DATA(header)
                .cast::<c_int>()
                .write_unaligned(fd.as_raw_fd());
        }
    }
    // SAFETY: `message` points to `part` and `control`, which outlive the call; the kernel
    // only reads `bytes`.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Waits until the first or the second has something: bytes, a connection, an end or an error.
/// A second one of `None` never has. After `limit`, if there is one, neither may have.
pub(crate) fn wait(
    first: BorrowedFd<'_>,
    second: Option<BorrowedFd<'_>>,
    limit: Option<Duration>,
) -> io::Result<(bool, bool)> {
    let entry = |fd: c_int| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // poll(2) ignores negative descriptors.
    let second = second.map_or(-1, |fd| fd.as_raw_fd());
    // Rounded up, or the last millisecond would be waited for in a spin; -1 is no limit.
    let limit_ms = limit.map_or(-1, |limit| {
        c_int::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
    });
    let mut entries = [entry(first.as_raw_fd()), entry(second)];
    // SAFETY: two entries that live through the call.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), 2, limit_ms) };
    if ready < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((entries[0].revents != 0, entries[1].revents != 0))
}
