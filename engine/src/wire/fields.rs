//! Tagged fields: how a message can grow without breaking older peers.
//!
//! A field is a 16-bit tag, a 32-bit length and that many bytes. A reader that does not know a
//! tag skips the field if the tag's highest bit is set, and refuses the message if not.

use super::WireError;
use super::bytes::Cursor;

/// Set in the tag of a field that a reader may skip.
pub(super) const OPTIONAL: u16 = 0x8000;

/// Appends one field, whose value `write` appends.
pub(super) fn put(out: &mut Vec<u8>, tag: u16, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&tag.to_le_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = u32::try_from(out.len() - length_at - 4).unwrap_or(u32::MAX);
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Hands each field of `body` to `take`, which says whether it knew the tag.
pub(super) fn each<'a>(
    body: &'a [u8],
    message: &'static str,
    mut take: impl FnMut(u16, Cursor<'a>) -> Result<bool, WireError>,
) -> Result<(), WireError> {
    let mut cursor = Cursor::new(body, message);
    while !cursor.is_empty() {
        let tag = cursor.u16()?;
        let length = cursor.u32()?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let value = cursor.take(length)?;
        let known = take(tag, Cursor::new(value, message))?;
        if !known && tag & OPTIONAL == 0 {
            return Err(WireError::UnknownField { message, tag });
        }
    }
    Ok(())
}

/// Stores a field's value, which must not have been there before.
pub(super) fn once<T>(
    slot: &mut Option<T>,
    value: T,
    what: &'static str,
) -> Result<bool, WireError> {
    if slot.replace(value).is_some() {
        return Err(WireError::BadFieldCount { what });
    }
    Ok(true)
}

/// The value of a field that must have been there.
pub(super) fn required<T>(slot: Option<T>, what: &'static str) -> Result<T, WireError> {
    slot.ok_or(WireError::BadFieldCount { what })
}
