//! What a connection has received: answers, events, and the reason for its end. The reading
//! thread fills it, the callers wait on it.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value};

use super::error::QmpError;
use super::event::{Event, MAX_EVENTS};

/// Longest line that is taken from QEMU, in bytes.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// What was received on one connection.
#[derive(Debug)]
pub(super) struct Inbox {
    /// The socket, as the user named it.
    pub(super) address: String,
    state: Mutex<Received>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Received {
    /// MissingPages by the number of their command; `None` until they come.
    pub(super) answers: HashMap<u64, Option<Map<String, Value>>>,
    pub(super) events: VecDeque<Event>,
    /// Sequence number of the oldest event that is kept.
    pub(super) first_event: u64,
    /// Why nothing more will come, once it is so.
    pub(super) end: Option<End>,
}

/// Why a connection ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    Lost(String),
    Malformed(String),
}

impl Inbox {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Received> {
        // No code that may panic runs under the lock but a caller's event predicate, which does
        // not change the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change; `None` once `deadline` has passed.
    pub(super) fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, Received>,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, Received>> {
        let left = deadline.checked_duration_since(Instant::now())?;
        let (state, _) = self
            .changed
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner);
        Some(state)
    }

    /// The error of a connection that has ended so.
    pub(super) fn broken(&self, end: &End) -> QmpError {
        let address = self.address.clone();
        match end.clone() {
            End::Lost(reason) => QmpError::Lost { address, reason },
            End::Malformed(reason) => QmpError::Malformed { address, reason },
        }
    }

    /// Reads lines until the connection ends: the work of the reading thread.
    pub(super) fn read_all(&self, mut reader: BufReader<impl Read>) {
        loop {
            match read_line(&mut reader) {
                Ok(line) => self.take_line(line),
                Err(end) => {
                    self.lock().end = Some(end);
                    self.changed.notify_all();
                    return;
                }
            }
        }
    }

    fn take_line(&self, mut line: Map<String, Value>) {
        let mut state = self.lock();
        if let Some(event) = Event::from_line(&mut line) {
            if state.events.len() == MAX_EVENTS {
                state.events.pop_front();
                state.first_event += 1;
            }
            state.events.push_back(event);
        } else if let Some(id) = line.get("id").and_then(Value::as_u64) {
            // An answer nobody waits for any more is dropped: its caller gave up.
            if let Some(answer) = state.answers.get_mut(&id) {
                *answer = Some(line);
            }
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// One line of QEMU's, as the JSON object it must be.
pub(super) fn read_line(reader: &mut BufReader<impl Read>) -> Result<Map<String, Value>, End> {
    let mut line = Vec::new();
    let limit = MAX_LINE_BYTES as u64;
    match reader.take(limit).read_until(b'\n', &mut line) {
        Err(error) => Err(End::Lost(error.to_string())),
        Ok(_) if line.is_empty() => Err(End::Lost("QEMU has closed it (has it exited?)".into())),
        Ok(_) if line.last() != Some(&b'\n') => Err(if line.len() < MAX_LINE_BYTES {
            End::Lost("it ended in the middle of a line".into())
        } else {
            End::Malformed(format!("a line is longer than {MAX_LINE_BYTES} bytes"))
        }),
        Ok(_) => match serde_json::from_slice(&line) {
            Ok(Value::Object(members)) => Ok(members),
            Ok(_) => Err(End::Malformed("a line is no JSON object".into())),
            Err(error) => Err(End::Malformed(format!("a line is no JSON: {error}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> (Vec<Map<String, Value>>, End) {
        let mut reader = BufReader::with_capacity(7, bytes);
        let mut all = Vec::new();
        loop {
            match read_line(&mut reader) {
                Ok(line) => all.push(line),
                Err(end) => return (all, end),
            }
        }
    }

    #[test]
    fn lines_and_ends() {
        let (all, end) = lines(b"{\"id\": 1}\r\n{}\n");
        assert_eq!(all.len(), 2);
        assert!(matches!(end, End::Lost(_)));
        assert!(matches!(lines(b"{\"id\"").1, End::Lost(_)));
        assert!(matches!(lines(b"[]\n").1, End::Malformed(_)));
        assert!(matches!(lines(b"SSH-2.0\n").1, End::Malformed(_)));
        let endless = vec![b' '; MAX_LINE_BYTES + 1];
        assert!(matches!(lines(&endless).1, End::Malformed(reason) if reason.contains("longer")));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut deep = vec![b'['; 100_000];
        deep.push(b'\n');
        assert!(matches!(lines(&deep).1, End::Malformed(_)));
    }
}
