//! A listening unix socket with a name in the file system: for its owner alone, connectable from the
//! first moment on, and made only where it replaces nothing.
//!
//! Its mode is 0600. A socket that a killed process has left is replaced; one on which a process
//! listens, and any other file, is not.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, Mode, RenameFlags, renameat_with};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that may wait to be accepted: all of a migration's, and some strangers.
const BACKLOG: i32 = 128;

/// Why there is no listening socket at a path.
#[derive(Debug, thiserror::Error)]
pub enum SocketFileError {
    /// The folder does not take it.
    #[error("{0}; name a path in a folder that exists and is yours to write")]
    Folder(io::Error),
    /// There is something else.
    #[error("a file of this name is there, and is no socket; name another one, or remove it")]
    NoSocket,
    /// Somebody listens there.
    #[error("another process listens there; name another one, or end that")]
    Taken,
    /// Another failure.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// A listening socket at `path`, for its owner alone.
///
/// # Errors
/// When the path cannot be had.
pub fn listen_privately(path: &Path) -> Result<UnixListener, SocketFileError> {
    match bind(path) {
        Ok(listener) => return Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(SocketFileError::Folder(error)),
    }
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(SocketFileError::NoSocket);
    }
    match UnixStream::connect(path) {
        Ok(_) => return Err(SocketFileError::Taken),
        // Left by a process that was killed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(bind(path)?)
}

/// # Errors
/// `AlreadyExists` if there is a file at `path`.
fn bind(path: &Path) -> io::Result<UnixListener> {
    // A socket with a name refuses connections until it listens (unix(7)), and a client may try as
    // soon as it sees the name: so it listens under another one first.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let early = path.with_file_name(format!(".{:x}.{number:x}", std::process::id()));
    // Left by a process of this number that was killed just here.
    let _ = std::fs::remove_file(&early);
    let address = SocketAddrUnix::new(&early)?;
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it has a name: Linux makes the file with the mode of the socket (unix_bind), so
    // there is no moment at which others could connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    let named = rustix::net::listen(&socket, BACKLOG)
        .and_then(|()| renameat_with(CWD, &early, CWD, path, RenameFlags::NOREPLACE));
    if let Err(error) = named {
        let _ = std::fs::remove_file(&early);
        return Err(error.into());
    }
    Ok(UnixListener::from(socket))
}
