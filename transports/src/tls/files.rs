//! Files with secrets.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Permissions that nobody needs on a secret: all of others', and writing by the group. That the group
/// may read is how libvirt and QEMU share a key.
const TOO_OPEN: u32 = 0o027;

/// Why a file with a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Others may read or change it.
    #[error(
        "its mode is {mode:04o}, so others than its owner and group may read or change it; \
         chmod 600 it, and make a new one if somebody may have read it"
    )]
    TooOpen {
        /// Its mode.
        mode: u32,
    },
}

/// Opens a file with a secret, which nobody but its owner and group may read. What is checked is the
/// file that was opened, whatever its name stands for by then.
pub(super) fn open_secret(path: &Path) -> Result<File, SecretFileError> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    if mode & TOO_OPEN != 0 {
        return Err(SecretFileError::TooOpen { mode });
    }
    Ok(file)
}

/// The bytes that hexadecimal digits stand for, two a byte.
pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let bytes = (0..text.len()).step_by(2);
    bytes
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}
