//! What a source does when a migration ends, whichever way.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pagelift_rpc::calls::state;
use pagelift_rpc::events::lifecycle;
use pagelift_v3::flags::Flags;
use pagelift_v3::phase::{Answer as Word, SourceAction};
use serde_json::Value;
use tracing::{error, info, warn};

use super::source::Outgoing;
use super::{lock, peer};
use crate::daemon::Daemon;
use crate::driver::qemu::native;
use crate::guests::{Ending, Guest};

/// How long after a question without an answer the next one is asked.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// How long QEMU may take to end a migration that was cancelled.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Carries out what the machine says. `said` is whether somebody has said that the target does not have
/// the guest, which counts where the target cannot be asked.
pub(super) fn act(
    daemon: &Arc<Daemon>,
    outgoing: &Arc<Outgoing>,
    actions: Vec<SourceAction>,
    said: bool,
) {
    for action in actions {
        match action {
            SourceAction::Cancel => cancel(outgoing),
            SourceAction::Resume => resume(daemon, outgoing),
            SourceAction::Destroy => destroy(daemon, outgoing),
            SourceAction::Ask => ask(daemon, outgoing, said),
            SourceAction::SayHeld => {
                let name = &lock(&outgoing.plan).name;
                warn!(
                    name,
                    "the guest is held: its target does not say whether it has it"
                );
            }
            SourceAction::EndJob => {
                lock(&daemon.migrations().outgoing).remove(&outgoing.guest.uuid());
                super::recover::forget(&outgoing.guest);
            }
        }
    }
}

fn cancel(outgoing: &Outgoing) {
    let Ok(qemu) = outgoing.guest.inner().qemu() else {
        return;
    };
    if let Err(error) = native::cancel(qemu.qmp()) {
        warn!(%error, "a migration cannot be cancelled");
    }
}

/// The guest goes on here, if it did before.
fn resume(daemon: &Daemon, outgoing: &Outgoing) {
    let guest = &outgoing.guest;
    let Ok(qemu) = guest.inner().qemu() else {
        return;
    };
    if let Err(error) = native::ended(qemu.qmp(), END_PATIENCE) {
        warn!(%error, "it is not known whether a guest is still being sent");
    }
    let before = lock(&outgoing.plan).before;
    let ran = before.0 == state::RUNNING_BOOTED.0;
    let status = qemu.execute("query-status").unwrap_or_default();
    let runs = status["running"].as_bool().unwrap_or(false);
    let is = guest.inner().state;
    let paused_meanwhile = is == state::PAUSED_USER || is == state::PAUSED_IO_ERROR;
    let mut now = before;
    if ran && !runs && !paused_meanwhile {
        now = state::RUNNING_MIGRATION_CANCELED;
        if let Err(error) = qemu.qmp().execute("cont", Value::Null) {
            error!(%error, "a guest that did not move cannot go on");
            now = state::PAUSED_UNKNOWN;
        } else {
            daemon
                .events()
                .lifecycle(&guest.wire(), lifecycle::RESUMED_MIGRATED);
        }
    }
    if paused_meanwhile {
        now = is;
    }
    turn(guest, now);
}

fn turn(guest: &Guest, now: (i32, i32)) {
    let mut inner = guest.inner();
    if inner.active.is_some() {
        inner.state = now;
        if let Err(error) = guest.save(&inner) {
            warn!(%error, name = inner.name, "the state of a guest is not kept");
        }
    }
}

/// The guest is the target's.
fn destroy(daemon: &Daemon, outgoing: &Outgoing) {
    let guest = &outgoing.guest;
    let ended = guest
        .begin("remoteDispatchDomainMigrateConfirm3Params")
        .and_then(|job| daemon.guests().end(&job, Ending::Migrated));
    match ended {
        Ok(()) => {
            let plan = lock(&outgoing.plan).clone();
            info!(name = plan.name, "guest moved");
            if plan.request.flags.has(Flags::UNDEFINE_SOURCE) {
                undefine(daemon, guest);
            }
        }
        Err(error) => error!(%error, "the process of a guest that moved cannot be ended"),
    }
}

/// Asks the target, and goes on asking in a thread if it does not answer.
fn ask(daemon: &Arc<Daemon>, outgoing: &Arc<Outgoing>, said: bool) {
    let plan = lock(&outgoing.plan).clone();
    let Some(uri) = plan.ask.clone() else {
        // A daemon like this one may have taken the guest over, whatever the client has heard of it.
        let actions = if said && !plan.alike {
            outgoing.step(|machine| machine.answered(Word::Dropped))
        } else {
            outgoing.step(|machine| machine.unanswered())
        };
        return act(daemon, outgoing, actions, said);
    };
    if let Some(word) = peer::ask(daemon, &uri, &plan, outgoing.guest.uuid()) {
        let actions = outgoing.step(|machine| machine.answered(word));
        return act(daemon, outgoing, actions, said);
    }
    let actions = outgoing.step(|machine| machine.unanswered());
    act(daemon, outgoing, actions, said);
    let (daemon, outgoing) = (Arc::clone(daemon), Arc::clone(outgoing));
    let asking = move || {
        while !lock(&outgoing.machine).ask_again().is_empty() {
            thread::sleep(ASK_AGAIN);
            if let Some(word) = peer::ask(&daemon, &uri, &plan, outgoing.guest.uuid()) {
                let actions = outgoing.step(|machine| machine.answered(word));
                act(&daemon, &outgoing, actions, said);
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("ask".into()).spawn(asking) {
        error!(%error, "nobody asks what has become of a guest");
    }
}

/// Removes the definition of a guest that moved.
pub(super) fn undefine(daemon: &Daemon, guest: &Arc<Guest>) {
    if guest.inner().definition.is_none() {
        return;
    }
    if let Err(error) = daemon.guests().undefine(guest) {
        warn!(%error, "a guest that moved is still defined");
    }
}
