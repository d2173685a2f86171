//! The files of a guest in the handshake: who can have each, and the hash of what it is known by.

use super::{Hello, tag};
use crate::memory::{FileIdentity, MAX_REGIONS, Reach};
use crate::wire::WireError;
use crate::wire::bytes::{Cursor, cap, put_text};
use crate::wire::fields;

/// Appends the fields of all files that `hello` names.
pub(super) fn put_fields(out: &mut Vec<u8>, hello: &Hello) {
    for file in &hello.files {
        fields::put(out, tag::FILE, |out| put(out, file));
    }
    for (name, file) in &hello.persistent {
        fields::put(out, tag::PERSISTENT, |out| {
            put(out, file);
            put_text(out, name);
        });
    }
}

fn put(out: &mut Vec<u8>, file: &FileIdentity) {
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

/// Adds one more to those that were read; always true, as the tag was known.
pub(super) fn push<T>(list: &mut Vec<T>, file: T) -> Result<bool, WireError> {
    cap("files", list.len() as u64 + 1, MAX_REGIONS as u64)?;
    list.push(file);
    Ok(true)
}
