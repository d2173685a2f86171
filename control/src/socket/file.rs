//! The file of a control socket.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use pagelift_transports::{SocketFileError, listen_privately};

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the control socket {}: {why}", path.display())]
pub struct ControlSocketError {
    path: PathBuf,
    why: SocketFileError,
}

impl ControlSocketError {
    pub(super) fn failed(path: &Path, error: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            why: error.into(),
        }
    }
}

/// A listening socket at `path`, for its owner alone.
pub(super) fn listen(path: &Path) -> Result<UnixListener, ControlSocketError> {
    listen_privately(path).map_err(|why| ControlSocketError {
        path: path.to_owned(),
        why,
    })
}
