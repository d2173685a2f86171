//! The socket that clients reach the agent by: without a name, behind QEMU's own `/proc/PID/fd`.
//!
//! The socket is bound in a folder of its own, which nobody else may enter, and the file is
//! removed before anybody could find it. What is left is the inode, which the agent holds open
//! (`O_PATH`). A client connects to the link of that descriptor, `/proc/PID/fd/N`. Whoever
//! follows such a link must be allowed to look into QEMU as a debugger is (`PTRACE_MODE_READ`,
//! ptrace(2)): QEMU's own user in QEMU's own user namespace, if it lacks no capability that QEMU
//! has, or root with CAP_SYS_PTRACE. That is who can read and write the guest's memory anyway,
//! so the agent needs no rule of its own (docs/decisions/070).
//!
//! Nothing stays behind when QEMU is killed, unless that happens in the microseconds in which
//! the folder exists.

#![allow(unsafe_code, reason = "mkdtemp is not in the standard library")]

use std::env;
use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use pagelift_agent_protocol::SOCKET_FILE;

/// Variables that name a folder of QEMU's own: systemd's, the session's, the user's.
const VARIABLES: [&str; 3] = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR"];

/// Folders that anybody may make a folder in, on most systems.
const FOLDERS: [&str; 3] = ["/dev/shm", "/tmp", "/var/tmp"];

/// A listening socket that no name leads to.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) listener: UnixListener,
    /// Its inode: the link of this descriptor is what clients connect to.
    _inode: File,
}

impl Door {
    /// Makes one in the first folder that takes a socket, for the moment.
    ///
    /// # Errors
    /// When none does; the last one's reason.
    pub(crate) fn open() -> io::Result<Self> {
        let named = VARIABLES.iter().filter_map(env::var_os).map(PathBuf::from);
        let folders = named.chain(FOLDERS.iter().map(PathBuf::from));
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for folder in folders.filter(|folder| folder.is_absolute()) {
            match Self::open_in(&folder) {
                Ok(door) => return Ok(door),
                Err(error) => {
                    last = io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
                }
            }
        }
        Err(last)
    }

    fn open_in(folder: &Path) -> io::Result<Self> {
        let own = private_folder(folder)?;
        let path = own.join(SOCKET_FILE);
        let door = Self::bind(&path);
        // Of no use from here on, whether there is a socket or not.
        let _not_bound = fs::remove_file(&path);
        let removed = fs::remove_dir(&own);
        let door = door?;
        removed.map(|()| door)
    }

    fn bind(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        // Its mode outlives its name: connecting takes the right to write.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let inode = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(path)?;
        Ok(Self {
            listener,
            _inode: inode,
        })
    }
}

/// A new folder in `folder`, for this user alone (mode 0700).
fn private_folder(folder: &Path) -> io::Result<PathBuf> {
    let template = folder.join("pagelift-XXXXXX").into_os_string().into_vec();
    let template = CString::new(template)?.into_raw();
    // SAFETY: `template` is a C string of our own; mkdtemp(3) replaces its last six bytes by six
    // others and keeps its end.
    let (made, error) = unsafe {
        let made = libc::mkdtemp(template);
        (!made.is_null(), io::Error::last_os_error())
    };
    // SAFETY: it came from `into_raw`, and its length is what it was.
    let path = unsafe { CString::from_raw(template) };
    if !made {
        return Err(error);
    }
    Ok(PathBuf::from(OsString::from_vec(path.into_bytes())))
}
