//! Request and answer: JSON behind a mark and its length.
//!
//! ```text
//! source -> target   MARK, u32 little-endian length, {"command", "dir", "ram_dir", "files"}
//! target -> source   MARK, u32 little-endian length, {"missing": [...]}; nothing missing is ready
//! ```
//!
//! Neither side reads a byte more than that: what follows is the migration's.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What comes first, so that a shell's greeting is not taken for an answer.
const MARK: [u8; 16] = *b"pagelift-start/1";

/// Most bytes of a message: a command line is shorter (execve(2)).
const MAX_BYTES: usize = 4 << 20;

/// Writes a message.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    let bytes = [&MARK[..], &length.to_le_bytes(), &text].concat();
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads a message.
///
/// # Errors
/// `UnexpectedEof` when nothing more comes; `InvalidData` with what came instead of a message.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut mark = [0; MARK.len()];
    from.read_exact(&mut mark)?;
    if mark != MARK {
        return Err(invalid(format!(
            "{:?} came where the other side should speak; does a shell there print something when it \
             starts, or is its pagelift older?",
            String::from_utf8_lossy(&mark)
        )));
    }
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_BYTES {
        return Err(invalid(format!("a message of {length} bytes")));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_and_not_a_byte_more() {
        let mut bytes = Vec::new();
        write(&mut bytes, &vec!["a", "b"]).unwrap();
        bytes.push(7);
        let mut rest = &bytes[..];
        assert_eq!(read::<Vec<String>>(&mut rest).unwrap(), ["a", "b"]);
        assert_eq!(rest, [7]);
    }

    #[test]
    fn what_is_no_message_is_shown() {
        let greeting = read::<Vec<String>>(&mut &b"Welcome to \x1b[1mhost\n"[..]).unwrap_err();
        let text = greeting.to_string();
        assert!(text.contains("Welcome to \\u{1b}"), "{text}");
        let long = [&MARK[..], &u32::MAX.to_le_bytes()].concat();
        assert!(read::<Vec<String>>(&mut &long[..]).is_err());
        let cut = read::<Vec<String>>(&mut &MARK[..3]).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }
}
