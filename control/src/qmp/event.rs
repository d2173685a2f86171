//! An event, and the moment it names.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

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
