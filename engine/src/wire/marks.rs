//! Marks in files: where each is, and the word that is there.
//!
//! ```text
//! Marks       16 bytes each, 1..=1024:
//!             0  u64  byte offset in the file, a multiple of 8
//!             8  u64  word
//! ```

use super::WireError;
use super::bytes::{Cursor, cap};
use crate::memory::{MAX_REGIONS, Mark};

/// Bytes of a mark.
const MARK_BYTES: usize = 16;

pub(super) fn encode(marks: &[Mark]) -> Vec<u8> {
    let mut out = Vec::with_capacity(marks.len() * MARK_BYTES);
    for mark in marks {
        out.extend_from_slice(&mark.offset.to_le_bytes());
        out.extend_from_slice(&mark.word.to_le_bytes());
    }
    out
}

pub(super) fn decode(body: &[u8]) -> Result<Vec<Mark>, WireError> {
    cap(
        "marks",
        (body.len() / MARK_BYTES) as u64,
        MAX_REGIONS as u64,
    )?;
    let mut cursor = Cursor::new(body, "marks");
    let mut marks = Vec::with_capacity(body.len() / MARK_BYTES);
    while !cursor.is_empty() || marks.is_empty() {
        let offset = cursor.u64()?;
        if offset % 8 != 0 {
            return Err(WireError::BadValue {
                what: "offset of a mark",
                value: offset,
            });
        }
        let word = cursor.u64()?;
        marks.push(Mark { offset, word });
    }
    Ok(marks)
}
