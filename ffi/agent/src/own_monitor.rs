//! QEMU's own monitors: a rollback script is taken to no other.
//!
//! A client names a path. It is QEMU's monitor only if QEMU holds the socket that listens there;
//! the kernel tells by the descriptors. When the script runs, much later, another program may
//! have taken the path over: the connection is used only if whoever listens at its other end is
//! who listened for QEMU's.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::socket;

/// A socket that QEMU listens on.
#[derive(Clone, Debug)]
pub(crate) struct OwnMonitor {
    path: PathBuf,
    /// Who made it listen: QEMU, or the manager that gave it to QEMU.
    listener: libc::pid_t,
}

impl OwnMonitor {
    /// The monitor at `path`, an absolute path.
    ///
    /// # Errors
    /// A text that says why there is none.
    pub(crate) fn find(path: &[u8]) -> Result<Self, String> {
        let path = Path::new(OsStr::from_bytes(path));
        let wanted = fs::metadata(path)
            .map_err(|error| format!("the monitor {path:?} cannot be seen by QEMU: {error}"))?;
        let listener = own_listeners()
            .map_err(|error| format!("QEMU's own descriptors cannot be listed: {error}"))?
            .into_iter()
            .find(|(bound, _)| {
                let bound = fs::metadata(bound);
                bound.is_ok_and(|it| (it.dev(), it.ino()) == (wanted.dev(), wanted.ino()))
            });
        match listener {
            Some((_, listener)) => Ok(Self {
                path: path.to_owned(),
                listener,
            }),
            None => Err(format!(
                "{path:?} is not a monitor of process {}: name a unix socket that this QEMU \
                 listens on, by the path it was given",
                std::process::id()
            )),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Connects to it, waiting at most `timeout` while its backlog is full.
    ///
    /// # Errors
    /// As connect(2); `ConnectionRefused` when another process listens there by now.
    pub(crate) fn connect(&self, timeout: Duration) -> io::Result<UnixStream> {
        let stream = socket::connect(&self.path, timeout)?;
        if socket::credentials(stream.as_fd())?.pid != self.listener {
            let text = "it is not this QEMU's any more";
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
        }
        Ok(stream)
    }
}

/// The unix sockets with a path that this process listens on, and who made them listen.
fn own_listeners() -> io::Result<Vec<(PathBuf, libc::pid_t)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name();
        let Some(number) = number.to_str().and_then(|text| text.parse().ok()) else {
            continue;
        };
        // A descriptor that another thread has closed by now is none, and no fault.
        if let Ok(fd) = duplicate(number)
            && let Some(listener) = listener(fd)
        {
            found.push(listener);
        }
    }
    Ok(found)
}

fn listener(fd: OwnedFd) -> Option<(PathBuf, libc::pid_t)> {
    if !socket::is_listening(fd.as_fd()) {
        return None;
    }
    let credentials = socket::credentials(fd.as_fd()).ok()?;
    let address = std::os::unix::net::UnixListener::from(fd)
        .local_addr()
        .ok()?;
    Some((address.as_pathname()?.to_owned(), credentials.pid))
}

/// A copy of the descriptor `number`, close-on-exec, so that no other thread can close it
/// meanwhile.
#[allow(unsafe_code, reason = "a descriptor that is known by its number alone")]
pub(crate) fn duplicate(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the borrow ends with this call, which the kernel answers with EBADF should the
    // number be that of no descriptor any more.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}
