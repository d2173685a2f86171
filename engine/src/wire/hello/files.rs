//! The identity of a file in the handshake: who can have it, and the hash of what it is known by.

use crate::memory::{FileIdentity, Reach};
use crate::wire::WireError;
use crate::wire::bytes::Cursor;

/// Appends `file`.
pub(super) fn put(out: &mut Vec<u8>, file: &FileIdentity) {
    out.push(match file.reach {
        Reach::Kernel => 0,
        Reach::Wider => 1,
    });
    out.extend_from_slice(&file.hash.to_le_bytes());
}

/// Reads one.
pub(super) fn take(value: &mut Cursor<'_>) -> Result<FileIdentity, WireError> {
    Ok(FileIdentity {
        reach: match value.boolean("reach of a file")? {
            false => Reach::Kernel,
            true => Reach::Wider,
        },
        hash: value.u128()?,
    })
}
