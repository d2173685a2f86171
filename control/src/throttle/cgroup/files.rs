//! Files that the kernel shows: their text, and the error that names the file.

use std::fs;
use std::io;
use std::path::Path;

use crate::throttle::ThrottleError;

/// The text of the file at `path`.
pub(super) fn read(path: &Path) -> Result<String, ThrottleError> {
    fs::read_to_string(path).map_err(|source| file_error(path, source))
}

/// The error of a file that cannot be read or written.
pub(super) fn file_error(path: &Path, source: io::Error) -> ThrottleError {
    ThrottleError::File {
        path: path.to_owned(),
        source,
    }
}
