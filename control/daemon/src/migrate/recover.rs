//! Recovery of the migrations that were going on, by a daemon that comes back.

use std::sync::{Arc, Mutex};
use std::thread;

use pagelift_control::qmp::Qmp;
use pagelift_rpc::calls::state;
use pagelift_rpc::params::TypedParam;
use pagelift_v3::domain::Uuid;
use pagelift_v3::flags::{Driver, Flags};
use pagelift_v3::params::{Param, Request};
use pagelift_v3::phase::{Source, SourceRecord, TargetRecord};
use serde_json::Value;
use tracing::{error, info, warn};

use super::job::Running;
use super::source::{Outgoing, Plan};
use super::{lock, settle};
use crate::daemon::Daemon;
use crate::driver::qemu::native;
use crate::guests::{Ending, Guest};
use crate::store::MigrationRecord;

/// Settles the migrations that a daemon before this one has begun. Other hosts may have to be asked: this
/// does not wait for them.
pub fn recover(daemon: &Arc<Daemon>) {
    for guest in daemon.guests().list(0) {
        let inner = guest.inner();
        let Some(record) = inner.migration.clone() else {
            continue;
        };
        let (name, active) = (inner.name.clone(), inner.active.is_some());
        let unreached = inner.is_unreached();
        drop(inner);
        info!(name, phase = record.phase, "a migration was going on");
        if !active {
            if !record.source {
                has_run(daemon, &record);
            }
            forget(&guest);
        } else if unreached && !is_dropped(&record) {
            later(daemon, &guest, record);
        } else {
            settle(daemon, &guest, &record);
        }
    }
}

fn settle(daemon: &Arc<Daemon>, guest: &Arc<Guest>, record: &MigrationRecord) {
    if record.source {
        source(daemon, guest, record);
    } else {
        target(daemon, guest, record);
    }
}

/// Whether the guest was to come here and never will: it is ended, whatever its QEMU says.
fn is_dropped(record: &MigrationRecord) -> bool {
    !record.source && TargetRecord::from_word(&record.phase) != Some(TargetRecord::Running)
}

/// Settles the migration of a guest whose QEMU does not answer once it does: what was sent depends on it.
fn later(daemon: &Arc<Daemon>, guest: &Arc<Guest>, record: MigrationRecord) {
    let (daemon, guest) = (Arc::clone(daemon), Arc::clone(guest));
    let settling = move || match guest.reached() {
        true => settle(&daemon, &guest, &record),
        false => forget(&guest),
    };
    if let Err(error) = thread::Builder::new().name("settle".into()).spawn(settling) {
        error!(%error, "nobody settles what has become of a guest");
    }
}

/// The guest is bound to no migration any more.
pub(super) fn forget(guest: &Guest) {
    let mut inner = guest.inner();
    if inner.migration.take().is_some()
        && let Err(error) = guest.save(&inner)
    {
        warn!(%error, name = inner.name, "a migration that has ended is still kept");
    }
}

fn plan(guest: &Guest, record: &MigrationRecord) -> Option<Plan> {
    let params = [TypedParam::new(
        Param::DESTINATION_NAME.name,
        record.target_name.as_str(),
    )];
    let bits = u64::from(record.flags);
    // What the flags need besides is not kept: the guest was sent with it.
    let request = Request {
        flags: Flags::read(Driver::Qemu, "recover", bits).ok()?,
        ..Request::read(Driver::Qemu, "recover", 0, &params).ok()?
    };
    let domain = guest.inner().current().cloned()?;
    Some(Plan {
        id: record.id.parse().unwrap_or(Uuid([0; 16])),
        request,
        name: record.name.clone(),
        domain,
        persistent: None,
        before: record.before,
        ask: record.ask.clone(),
        alike: record.alike,
        stopped_ms: 0,
    })
}

fn source(daemon: &Arc<Daemon>, guest: &Arc<Guest>, record: &MigrationRecord) {
    let phase = SourceRecord::from_word(&record.phase);
    let (Some(phase), Some(plan)) = (phase, plan(guest, record)) else {
        error!(
            phase = record.phase,
            "what was kept of a migration cannot be read"
        );
        return;
    };
    let qemu = guest.inner().qemu();
    let progress = qemu.map(|qemu| native::progress(qemu.qmp()));
    let sent = matches!(progress, Ok(Ok(progress)) if progress.status() == "completed");
    let (machine, actions) = Source::restored(phase, sent);
    if matches!(machine, Source::Asking { .. }) {
        let mut inner = guest.inner();
        inner.state = state::PAUSED_MIGRATION;
        if let Err(error) = guest.save(&inner) {
            warn!(%error, name = inner.name, "the state of a guest is not kept");
        }
    }
    let outgoing = Arc::new(Outgoing {
        guest: Arc::clone(guest),
        machine: Mutex::new(machine),
        plan: Mutex::new(plan),
        running: Mutex::new(Running::new()),
    });
    lock(&daemon.migrations().outgoing).insert(guest.uuid(), Arc::clone(&outgoing));
    let daemon = Arc::clone(daemon);
    let settling = move || settle::act(&daemon, &outgoing, actions, false);
    if let Err(error) = thread::Builder::new().name("settle".into()).spawn(settling) {
        error!(%error, "nobody settles what has become of a guest");
    }
}

fn target(daemon: &Arc<Daemon>, guest: &Arc<Guest>, record: &MigrationRecord) {
    if is_dropped(record) {
        let ended = guest
            .begin("remoteDispatchDomainMigratePrepare3Params")
            .and_then(|job| daemon.guests().end(&job, Ending::Failed));
        if let Err(error) = ended {
            error!(%error, "the process of a guest that did not arrive cannot be ended");
        }
        return;
    }
    // The source may have been told: the guest is this host's, and runs if it is to.
    has_run(daemon, record);
    let paused = record.flags & Flags::PAUSED.bits() != 0;
    let qemu = guest.inner().qemu().ok().filter(|_| !paused);
    if let Some(qemu) = qemu
        && guest.inner().state != state::PAUSED_IO_ERROR
    {
        let status = qemu.execute("query-status").unwrap_or_default();
        if status["running"] != true {
            start(guest, qemu.qmp());
        }
    }
    forget(guest);
}

/// Starts a guest that was this host's when the daemon ended, and did not run yet.
fn start(guest: &Guest, qmp: &Qmp) {
    let started = qmp.execute("cont", Value::Null);
    let mut inner = guest.inner();
    inner.state = match started {
        Ok(_) => state::RUNNING_MIGRATED,
        Err(error) => {
            error!(%error, name = inner.name, "a guest that arrived cannot go on");
            state::PAUSED_UNKNOWN
        }
    };
}

/// Remembers a migration whose guest was this host's.
fn has_run(daemon: &Daemon, record: &MigrationRecord) {
    let running = TargetRecord::from_word(&record.phase) == Some(TargetRecord::Running);
    if running && let Ok(id) = record.id.parse() {
        daemon.migrations().remember(daemon.guests().store(), id);
    }
}
