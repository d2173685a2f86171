//! Events, and each reader's place among them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

use super::error::QmpError;
use super::shared::Shared;

/// Most events that are kept for readers; the oldest go first.
pub const MAX_EVENTS: usize = 4096;

/// A moment on the clock of QEMU's host: microseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment as the standard library's type.
    pub fn system_time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.0)
    }

    /// Microseconds from `earlier` to here; negative when `earlier` is later.
    ///
    /// Of two hosts the difference of their clocks is in it.
    pub fn micros_since(self, earlier: Self) -> i64 {
        (self.0 as i64).saturating_sub(earlier.0 as i64)
    }
}

/// Something QEMU told without being asked.
#[derive(Clone, PartialEq)]
pub struct Event {
    /// Its name: `STOP`, `RESUME`, `MIGRATION`, ...
    pub name: String,
    /// What comes with it; empty for many.
    pub data: Map<String, Value>,
    /// When it happened; `None` when QEMU could not tell.
    pub at: Option<Timestamp>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if !self.data.is_empty() {
            write!(f, " {}", Value::Object(self.data.clone()))?;
        }
        Ok(())
    }
}

impl Event {
    /// The member of the data called `key`, when it is a text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key).and_then(Value::as_str)
    }

    /// The event that a line's members are, if they are one (QMP specification, "Asynchronous
    /// events"); its data is taken out of them.
    pub fn from_line(line: &mut Map<String, Value>) -> Option<Self> {
        let name = line.get("event")?.as_str()?.to_owned();
        let data = match line.remove("data") {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        };
        let part = |key: &str| line.get("timestamp")?.get(key)?.as_u64();
        // QEMU says -1 for both when its clock failed.
        let at = part("seconds")
            .zip(part("microseconds"))
            .map(|(seconds, micros)| {
                Timestamp(seconds.saturating_mul(1_000_000).saturating_add(micros))
            });
        Some(Self { name, data, at })
    }
}

/// A reader of events, from the moment it was made.
///
/// Each reader sees every event, in QEMU's order, whatever other readers do.
#[derive(Clone, Debug)]
pub struct Events {
    pub(super) shared: Arc<Shared>,
    /// Sequence number of the next event to look at.
    pub(super) next: u64,
}

impl Events {
    /// Passes over events until `pick` makes something of one; `what` names it for the error.
    ///
    /// Events that came before the connection ended are still seen.
    ///
    /// # Errors
    /// When `limit` has passed, the connection is lost, or events had to be dropped.
    pub fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, QmpError> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            let seen = seen_of(&mut self.next, state.first_event)?;
            for event in state.events.iter().skip(seen) {
                self.next += 1;
                if let Some(found) = pick(event) {
                    return Ok(found);
                }
            }
            if let Some(end) = &state.end {
                return Err(self.shared.broken(end));
            }
            state = self
                .shared
                .wait(state, deadline)
                .ok_or_else(|| QmpError::Timeout {
                    address: self.shared.address.clone(),
                    what: what.to_owned(),
                    waited: limit,
                })?;
        }
    }

    /// The next event that has come already. Does not wait; `None` also when the connection is
    /// lost and all its events were seen.
    ///
    /// # Errors
    /// When events had to be dropped; the next call goes on after them.
    pub fn next_so_far(&mut self) -> Result<Option<Event>, QmpError> {
        let state = self.shared.lock();
        let seen = seen_of(&mut self.next, state.first_event)?;
        let event = state.events.get(seen).cloned();
        self.next += u64::from(event.is_some());
        Ok(event)
    }

    /// Passes over all events that have come so far.
    pub fn skip_to_now(&mut self) {
        let state = self.shared.lock();
        self.next = state.first_event + state.events.len() as u64;
    }
}

/// How many of the events kept, the first of which has the number `oldest`, a reader has passed
/// whose next one has the number `next`.
///
/// # Errors
/// When events it has not seen had to be dropped; `next` is then the oldest one kept.
fn seen_of(next: &mut u64, oldest: u64) -> Result<usize, QmpError> {
    let lost = oldest.saturating_sub(*next);
    if lost > 0 {
        *next = oldest;
        return Err(QmpError::EventsLost { lost });
    }
    Ok(usize::try_from(*next - oldest).unwrap_or(usize::MAX))
}
