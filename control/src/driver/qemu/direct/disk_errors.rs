//! Noticing that QEMU has stopped the guest because a disk failed.
//!
//! With `werror=stop`, `rerror=stop` or `enospc` (the default for writes to a full disk), QEMU
//! answers an I/O error of a disk by stopping the guest in the run state `io-error`, and says so
//! with the events `BLOCK_IO_ERROR`, whose `action` is `stop`, and `STOP` (QMP reference). Errors
//! that are reported to the guest (`action` is `report`) are the guest's own business.
//!
//! QEMU may limit the rate of these events, so the one that stopped the guest may go unnamed:
//! after every `STOP` the run state is asked for.

use pagelift_engine::plain_text;

use crate::driver::qemu::inspect::run_state;
use crate::qmp::{Event, Events, Qmp, QmpError};

/// Run state of a guest that was stopped so.
const IO_ERROR: &str = "io-error";

/// What is said when QEMU did not tell more.
const NAMELESS: &str = "a disk failed, and QEMU stopped the guest, which it says is 'io-error'; \
                        repair the disk and send 'cont'";

/// Watches a guest's disks, from the moment it was made.
#[derive(Debug)]
pub(super) struct DiskErrors {
    qmp: Qmp,
    events: Events,
}

impl DiskErrors {
    pub(super) fn new(qmp: &Qmp) -> Self {
        Self {
            qmp: qmp.clone(),
            events: qmp.events(),
        }
    }

    /// What has failed since the last look, if that stopped the guest. Does not wait.
    pub(super) fn look(&mut self) -> Option<String> {
        loop {
            match self.events.next_so_far() {
                Ok(Some(event)) => {
                    if let Some(words) = failure(&event) {
                        return Some(words);
                    }
                    if event.name == "STOP" && self.is_stopped() {
                        return Some(NAMELESS.into());
                    }
                }
                // Of a connection that was lost others find out.
                Ok(None) => return None,
                Err(QmpError::EventsLost { .. }) if self.is_stopped() => {
                    return Some(NAMELESS.into());
                }
                Err(_) => {}
            }
        }
    }

    fn is_stopped(&self) -> bool {
        run_state(&self.qmp).is_ok_and(|state| state == IO_ERROR)
    }
}

/// The words for a failed disk that stopped the guest.
fn failure(event: &Event) -> Option<String> {
    if event.name != "BLOCK_IO_ERROR" || event.text("action") != Some("stop") {
        return None;
    }
    let named = |key: &str| event.text(key).filter(|name| !name.is_empty());
    let disk = named("device")
        .or_else(|| named("qom-path"))
        .or_else(|| named("node-name"));
    let operation = event.text("operation").unwrap_or("request");
    let reason = event.text("reason").unwrap_or("no reason given");
    Some(plain_text::line(&format!(
        "disk {} failed a {operation} ({reason}), and QEMU stopped the guest, which it says is \
         '{IO_ERROR}'; repair the disk and send 'cont'",
        disk.unwrap_or("without a name"),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    fn event(name: &str, data: Value) -> Event {
        let Value::Object(data) = data else {
            panic!("{data}")
        };
        Event {
            name: name.into(),
            data,
            at: None,
        }
    }

    #[test]
    fn only_an_error_that_stops_the_guest_counts() {
        let failed = |action: &str| {
            let data = json!({ "device": "", "node-name": "bad", "qom-path": "/machine/x",
                               "operation": "read", "action": action,
                               "reason": "Input/output error" });
            failure(&event("BLOCK_IO_ERROR", data))
        };
        let words = failed("stop").unwrap();
        assert!(
            words.starts_with("disk /machine/x failed a read (Input/output error)"),
            "{words}"
        );
        assert_eq!(failed("report"), None);
        assert_eq!(failed("ignore"), None);
        assert_eq!(failure(&event("STOP", Value::Object(Map::new()))), None);
    }
}
