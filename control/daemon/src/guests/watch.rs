//! The watch over a guest's QEMU: its events, and its end.

use std::fs;
use std::sync::Arc;

use pagelift_control::qmp::Event;
use pagelift_rpc::calls::state;
use pagelift_rpc::events::lifecycle;
use pagelift_rpc::types::{Domain as Wire, NO_ID};
use serde_json::Value;
use tracing::{error, info, warn};

use super::{Ending, Guest, Guests};
use crate::driver::qemu::{Ended, Qemu};

impl Guests {
    /// Follows a process until it has ended.
    pub(super) fn watch(self: &Arc<Self>, guest: &Arc<Guest>, qemu: &Arc<Qemu>) {
        let (guests, guest, qemu) = (Arc::clone(self), Arc::clone(guest), Arc::clone(qemu));
        let run = move || {
            let ended = qemu.watch(|event| guest.noted(event));
            guests.ended(&guest, ended);
        };
        if let Err(error) = std::thread::Builder::new().name("guest".into()).spawn(run) {
            error!(%error, "the end of a guest will not be noticed");
        }
    }

    /// The process has ended. Whoever sees that it has sees all of it: no socket is left, a guest that was
    /// not defined is gone, and the event is on its way.
    pub(super) fn ended(&self, guest: &Guest, ended: Ended) {
        let wire = Wire {
            id: NO_ID,
            ..guest.wire()
        };
        let _not_there = fs::remove_dir_all(guest.shared.start_of(guest.uuid(), false).dir);
        let mut all = self.all();
        let mut inner = guest.inner();
        let ending = inner.active.take().and_then(|active| active.ending);
        inner.migration = None;
        let (now, event) = match (ending, ended) {
            (Some(Ending::Destroyed), _) => {
                (state::SHUT_OFF_DESTROYED, lifecycle::STOPPED_DESTROYED)
            }
            (Some(Ending::Migrated), _) => (state::SHUT_OFF_MIGRATED, lifecycle::STOPPED_MIGRATED),
            (Some(Ending::Failed), _) => (state::SHUT_OFF_FAILED, lifecycle::STOPPED_FAILED),
            (Some(Ending::Shutdown), _) | (None, Ended::Shutdown) => {
                (state::SHUT_OFF_SHUTDOWN, lifecycle::STOPPED_SHUTDOWN)
            }
            (None, Ended::Crashed) => (state::SHUT_OFF_CRASHED, lifecycle::STOPPED_CRASHED),
        };
        inner.state = now;
        if let Err(error) = guest.save(&inner) {
            error!(%error, name = inner.name, "the end of a guest is not kept");
        }
        info!(name = inner.name, state = ?now, "guest ended");
        if inner.is_gone() {
            all.remove(&guest.uuid());
        }
        guest.shared.events.lifecycle(&wire, event);
        drop(inner);
        drop(all);
        guest.changed.notify_all();
    }
}

impl Guest {
    /// QEMU has said something.
    fn noted(&self, event: &Event) {
        let mut inner = self.inner();
        let before = inner.state;
        match event.name.as_str() {
            "SHUTDOWN" => {
                let by_guest = event.data.get("guest").and_then(Value::as_bool) == Some(true);
                if let Some(active) = &mut inner.active
                    && by_guest
                {
                    active.ending.get_or_insert(Ending::Shutdown);
                }
                drop(inner);
                let detail = if by_guest {
                    lifecycle::SHUTDOWN_GUEST
                } else {
                    lifecycle::SHUTDOWN_HOST
                };
                self.shared.events.lifecycle(&self.wire(), detail);
                return;
            }
            // By another hand than the daemon's: that knows what it does before this is heard.
            "STOP" if before.0 == state::RUNNING_BOOTED.0 => inner.state = state::PAUSED_UNKNOWN,
            "RESUME" if before == state::PAUSED_UNKNOWN || before == state::PAUSED_IO_ERROR => {
                inner.state = state::RUNNING_UNPAUSED;
            }
            "BLOCK_IO_ERROR" if event.text("action") == Some("stop") => {
                inner.state = state::PAUSED_IO_ERROR;
            }
            _ => return,
        }
        if inner.state != before
            && let Err(error) = self.save(&inner)
        {
            warn!(%error, name = inner.name, "the state of a guest is not kept");
        }
    }
}
