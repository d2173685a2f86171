//! The guest's console: lines with the time at which they came.
//!
//! QEMU connects to a socket that listens before it starts, so no byte is lost. A thread per
//! console reads until QEMU closes it. All lines are kept: some 80 bytes ten times a second.

use core::time::Duration;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

/// One line from the guest, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The text; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// When its end was read from QEMU.
    pub at: Instant,
}

/// What a console has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SerialLog {
    /// Whole lines, oldest first.
    pub lines: Vec<Line>,
    /// What came after the last of them. When a guest is moved in the middle of a line, the
    /// rest of it is the first that the other host's log holds.
    pub rest: String,
}

impl SerialLog {
    /// A log as if `text` had been read just now, for tests of what reads logs.
    pub fn from_text(text: &str) -> Self {
        let mut log = Self::default();
        log.push(text.as_bytes());
        log
    }

    fn push(&mut self, bytes: &[u8]) {
        let at = Instant::now();
        self.rest.push_str(&String::from_utf8_lossy(bytes));
        while let Some(end) = self.rest.find('\n') {
            let text = self.rest[..end].trim_end_matches('\r').to_owned();
            self.rest.drain(..=end);
            self.lines.push(Line { text, at });
        }
    }

    /// The last `n` lines, for messages.
    pub fn tail(&self, n: usize) -> String {
        let from = self.lines.len().saturating_sub(n);
        let texts: Vec<&str> = self.lines[from..]
            .iter()
            .map(|line| line.text.as_str())
            .collect();
        texts.join("\n")
    }
}

/// The harness's end of a console.
#[derive(Debug)]
pub(crate) struct Serial {
    stream: UnixStream,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<SerialLog>,
    grown: Condvar,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, SerialLog> {
        // Appending cannot leave a log half changed.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Serial {
    /// Reads from a connected console until it is closed.
    pub(crate) fn new(stream: UnixStream) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (mut reader, sink) = (stream.try_clone()?, Arc::clone(&shared));
        thread::Builder::new()
            .name("serial".to_owned())
            .spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = reader.read(&mut buffer) {
                    sink.log().push(&buffer[..n]);
                    sink.grown.notify_all();
                }
            })?;
        Ok(Self { stream, shared })
    }

    pub(crate) fn write_line(&self, line: &str) -> std::io::Result<()> {
        (&self.stream).write_all(format!("{line}\n").as_bytes())
    }

    pub(crate) fn log(&self) -> SerialLog {
        self.shared.log().clone()
    }

    /// The first line from number `from` on that `wanted` accepts, with its number, if there is
    /// one within `patience`; otherwise the number from which to look on.
    pub(crate) fn wait(
        &self,
        from: usize,
        patience: Duration,
        wanted: &mut dyn FnMut(&str) -> bool,
    ) -> Result<(usize, Line), usize> {
        let deadline = Instant::now() + patience;
        let mut next = from;
        let mut log = self.shared.log();
        loop {
            while let Some(line) = log.lines.get(next) {
                if wanted(&line.text) {
                    return Ok((next, line.clone()));
                }
                next += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(next);
            }
            let woken = self.shared.grown.wait_timeout(log, left);
            log = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_has_no_end_yet() {
        let mut log = SerialLog::from_text("one\r\ntw");
        assert_eq!((log.tail(9).as_str(), log.rest.as_str()), ("one", "tw"));
        log.push(b"o\nthree\n");
        assert_eq!(
            (log.tail(2).as_str(), log.rest.as_str()),
            ("two\nthree", "")
        );
    }
}
