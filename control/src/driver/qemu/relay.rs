//! Passing QEMU's migration stream from the source's QEMU to the target's, and the answers back.
//!
//! The stream is opaque: it has no boundaries that could be found without knowing every device,
//! and none are needed. Its end is not visible either: the source's QEMU sends all it has and
//! then waits, with the socket open, for the target's `SHUT`. So it is the return path that tells
//! when device state is complete, and [`upstream`] ends with it.
//!
//! Both directions block; whoever started them ends them with `shutdown` on a socket.

use std::io::{self, ErrorKind, Read, Write};

use super::return_path::{ReturnPath, ReturnPathError, Shut};

/// Bytes that are taken from a socket at a time.
const CHUNK_BYTES: usize = 128 << 10;

/// Why the return path could not be followed to its end.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// A socket failed.
    #[error("relaying QEMU's return path: {0}")]
    Io(#[from] io::Error),
    /// What came is no return path.
    #[error(transparent)]
    ReturnPath(#[from] ReturnPathError),
}

/// Passes the stream on until its end; how many bytes it had.
///
/// # Errors
/// As either side's.
pub fn downstream(mut from: impl Read, mut to: impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut total_bytes = 0;
    loop {
        match read_some(&mut from, &mut buffer)? {
            0 => return Ok(total_bytes),
            count => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
                total_bytes += count as u64;
            }
        }
    }
}

/// Passes answers back until the target's verdict, which is returned and not passed on.
///
/// `None` when the path ended without one: the target's QEMU is gone or gave up.
///
/// # Errors
/// As either side's, and when the bytes are no return path.
pub fn upstream(mut from: impl Read, mut to: impl Write) -> Result<Option<Shut>, RelayError> {
    let mut path = ReturnPath::default();
    let mut buffer = [0; 4096];
    let mut forward = Vec::new();
    loop {
        let count = read_some(&mut from, &mut buffer)?;
        if count == 0 {
            return Ok(None);
        }
        path.push(&buffer[..count], &mut forward)?;
        to.write_all(&forward)?;
        to.flush()?;
        forward.clear();
        if let Some(shut) = path.shut() {
            return Ok(Some(shut));
        }
    }
}

fn read_some(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_is_kept_back() {
        let pong = [0, 2, 0, 4, 0, 0, 0, 1];
        let failed = [0, 1, 0, 4, 0, 0, 0, 1];
        let mut passed = Vec::new();
        let shut = upstream([pong, failed].concat().as_slice(), &mut passed).unwrap();
        assert_eq!(shut, Some(Shut { error: 1 }));
        assert_eq!(passed, pong);
        assert_eq!(upstream(pong.as_slice(), &mut passed).unwrap(), None);
        assert!(matches!(
            upstream(b"nonsense".as_slice(), &mut passed),
            Err(RelayError::ReturnPath(ReturnPathError::BadType(_)))
        ));
    }

    #[test]
    fn stream_passes_whole() {
        let stream: Vec<u8> = (0..3 * CHUNK_BYTES + 5).map(|i| i as u8).collect();
        let mut passed = Vec::new();
        let total_bytes = downstream(stream.as_slice(), &mut passed).unwrap();
        assert_eq!(total_bytes, stream.len() as u64);
        assert!(passed == stream);
    }
}
