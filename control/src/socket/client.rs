//! A client of a control socket: one request, one answer.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// How long a migration may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("the control socket {}: {why}", path.display())]
pub struct NoAnswer {
    path: PathBuf,
    why: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("no migration listens there; name what --control was given: {0}")]
    NobodyListens(io::Error),
    #[error(transparent)]
    Failed(#[from] io::Error),
    #[error("no answer: {0}")]
    Silent(io::Error),
    #[error("the migration has just ended")]
    Ended,
    #[error("{line:?}: {error}")]
    NotJson {
        line: String,
        error: serde_json::Error,
    },
}

/// Sends `request` to the migration that serves the socket at `path`; its answer.
///
/// # Errors
/// When no migration listens there, or it does not answer within 10 s.
pub fn ask(path: &Path, request: &Value) -> Result<Value, NoAnswer> {
    exchange(path, request).map_err(|why| NoAnswer {
        path: path.to_owned(),
        why,
    })
}

fn exchange(path: &Path, request: &Value) -> Result<Value, Reason> {
    let mut stream = UnixStream::connect(path).map_err(Reason::NobodyListens)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .map_err(Reason::Silent)?;
    if line.is_empty() {
        return Err(Reason::Ended);
    }
    serde_json::from_str(&line).map_err(|error| Reason::NotJson { line, error })
}
