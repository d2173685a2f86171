//! Finish: the guest is this host's.

use std::sync::Arc;
use std::time::Duration;

use pagelift_rpc::calls::{FinishReply, state};
use pagelift_rpc::error::ErrorCode;
use pagelift_rpc::events::lifecycle;
use pagelift_rpc::xdr::Opaque;
use pagelift_v3::cookie::{Arrival, Cookie, Phase};
use pagelift_v3::domain::Domain;
use pagelift_v3::flags::Flags;
use pagelift_v3::params::Request;
use pagelift_v3::phase::{Refusal, Target, TargetAction, TargetRecord};
use serde_json::Value;
use tracing::{info, warn};

use super::{FINISH, Incoming, refused};
use crate::daemon::Daemon;
use crate::dispatch::Answer;
use crate::driver::qemu::Qemu;
use crate::driver::qemu::native;
use crate::guests::{Guest, errors};
use crate::migrate::job::{JobRecord, now_ms};
use crate::migrate::lock;
use crate::migrate::source::{cookie, monitor};

/// How long the last of a guest may take to come in after the source has sent it.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(60);

impl Incoming {
    pub(super) fn finish(
        &self,
        daemon: &Arc<Daemon>,
        request: &Request,
        cookie_c: &[u8],
    ) -> Answer<FinishReply> {
        let (name_there, name) = &self.names;
        let arrival = Arrival {
            phase: Phase::Finish,
            name: name_there,
            uuid: self.uuid,
            own_host: daemon.host().uuid,
            offline: self.offline.is_some(),
        };
        let c = match Cookie::decode(cookie_c, &arrival) {
            Ok(c) => c,
            Err(error) => {
                self.abandon(daemon);
                return Err(error);
            }
        };
        if let Some(domain) = &self.offline {
            return self.define(daemon, domain.clone());
        }
        let Some((guest, qemu, before)) = &self.qemu else {
            return Err(Refusal::NoGuest.error(name));
        };
        let id = c.as_ref().and_then(|c| c.extension.as_ref()?.id);
        let said = self.id.is_none() || self.id == id;
        let job = guest.begin(FINISH)?;
        if !self.has_its_qemu() {
            return Err(Refusal::NoGuest.error(name));
        }
        let defined_before = guest.inner().definition.clone();
        let incoming = match said {
            true => arrived(qemu)?,
            false => pagelift_v3::phase::Incoming::Nothing,
        };
        let persistent = self.to_define(request, c.as_ref(), guest);
        let defined = persistent.and_then(|domain| match domain {
            Some(domain) if incoming == pagelift_v3::phase::Incoming::Some => {
                daemon.guests().define(domain).map(drop)
            }
            _ => Ok(()),
        });
        if let Err(error) = defined {
            drop(job);
            self.abandon(daemon);
            return Err(error);
        }
        let finished = lock(&self.machine).finish(false, incoming);
        let actions = match finished {
            Ok(actions) => actions,
            Err(refusal) => {
                take_back(daemon, guest, defined_before);
                drop(job);
                // It may have been asked for while the last of it was waited for.
                if *lock(&self.machine) == Target::Empty {
                    self.destroy(daemon)?;
                }
                return Err(refusal.error(name));
            }
        };
        if actions != [TargetAction::Start] {
            let why = native::progress(qemu.qmp()).map_err(monitor)?;
            let why = why.error().unwrap_or("QEMU does not say why").to_owned();
            drop(job);
            self.act(daemon, actions);
            let detail = format!("job 'migration in' failed: {why}");
            return Err(refused(ErrorCode::OperationFailed, detail));
        }
        let started = self.start(daemon, guest, qemu, request);
        let actions = lock(&self.machine).started(started.is_ok());
        if let Err(error) = started {
            take_back(daemon, guest, defined_before);
            drop(job);
            self.act(daemon, actions);
            return Err(error);
        }
        if let Err(error) = native::restore(qemu.qmp(), before) {
            warn!(%error, name, "settings of a migration are left in a QEMU");
        }
        drop(job);
        if let Some(id) = self.id {
            daemon.migrations().remember(daemon.guests().store(), id);
        }
        crate::migrate::recover::forget(guest);
        daemon.migrations().forget(self);
        info!(name, "guest arrived");
        let mut d = cookie(daemon, name_there, self.uuid);
        let statistics = c.and_then(|c| c.statistics);
        d.statistics = statistics.map(|statistics| statistics.completed_on_target(now_ms()));
        if let Some(statistics) = d.statistics {
            let record = JobRecord {
                incoming: true,
                statistics,
            };
            lock(&daemon.migrations().completed).insert(self.uuid, record);
        }
        Ok(FinishReply {
            domain: guest.wire(),
            cookie: Opaque(d.encode()),
        })
    }

    /// What is to be defined here under the guest's name, if anything.
    fn to_define(
        &self,
        request: &Request,
        c: Option<&Cookie>,
        guest: &Guest,
    ) -> Answer<Option<Domain>> {
        if !request.flags.has(Flags::PERSIST_DEST) {
            return Ok(None);
        }
        let sent = c.and_then(|c| c.persistent.as_deref().cloned());
        let current = || guest.inner().current().cloned();
        let mut domain = sent.or_else(current).ok_or_else(errors::not_running)?;
        domain.name.clone_from(&self.names.1);
        domain.stopped();
        Ok(Some(domain))
    }

    /// Only a definition has arrived.
    fn define(&self, daemon: &Arc<Daemon>, domain: Domain) -> Answer<FinishReply> {
        let guest = daemon.guests().define(domain)?;
        *lock(&self.machine) = Target::Running;
        daemon.migrations().forget(self);
        Ok(FinishReply {
            domain: guest.wire(),
            cookie: Opaque(cookie(daemon, &self.names.0, self.uuid).encode()),
        })
    }

    /// The guest is this host's: that is kept, and then its processors start.
    fn start(
        &self,
        daemon: &Arc<Daemon>,
        guest: &Arc<Guest>,
        qemu: &Qemu,
        request: &Request,
    ) -> Answer<()> {
        let paused = request.flags.has(Flags::PAUSED);
        let mut inner = guest.inner();
        inner.state = if paused {
            state::PAUSED_USER
        } else {
            state::RUNNING_MIGRATED
        };
        inner.migration = Some(self.record(TargetRecord::Running, request));
        guest.save(&inner)?;
        drop(inner);
        if paused {
            daemon
                .events()
                .lifecycle(&guest.wire(), lifecycle::SUSPENDED_PAUSED);
            return Ok(());
        }
        qemu.qmp().execute("cont", Value::Null).map_err(monitor)?;
        daemon
            .events()
            .lifecycle(&guest.wire(), lifecycle::RESUMED_MIGRATED);
        Ok(())
    }
}

/// The guest does not stay: its definition is again what it was before Finish.
fn take_back(daemon: &Daemon, guest: &Guest, before: Option<Domain>) {
    let mut inner = guest.inner();
    if inner.definition == before {
        return;
    }
    let event = match before {
        Some(_) => lifecycle::DEFINED_UPDATED,
        None => lifecycle::UNDEFINED_REMOVED,
    };
    inner.definition = before;
    if let Err(error) = guest.save(&inner) {
        warn!(%error, name = inner.name, "the definition of a guest that does not stay is still kept");
    }
    drop(inner);
    daemon.events().lifecycle(&guest.wire(), event);
}

/// How much of the guest has come, when the last of it was waited for.
fn arrived(qemu: &Qemu) -> Answer<pagelift_v3::phase::Incoming> {
    use pagelift_v3::phase::Incoming;
    let now = native::progress(qemu.qmp()).map_err(monitor)?;
    if matches!(now.status(), "none" | "setup") {
        return Ok(Incoming::Nothing);
    }
    let now = native::arrived(qemu.qmp(), ARRIVAL_PATIENCE).map_err(monitor)?;
    Ok(match now.status() {
        "completed" => Incoming::Some,
        _ => Incoming::Failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_was_defined_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.paths.state = dir.path().join("state");
        config.paths.run = dir.path().join("run");
        let daemon = Daemon::new(config).unwrap();
        let xml = "<domain type='qemu'><name>g</name>\
                   <uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid><memory>32768</memory>\
                   <vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>";
        let before = Domain::parse(xml).unwrap();
        let guest = daemon.guests().define(before.clone()).unwrap();
        let mut arrived = before.clone();
        arrived.vcpus = 2;
        daemon.guests().define(arrived).unwrap();
        take_back(&daemon, &guest, Some(before.clone()));
        assert_eq!(guest.inner().definition, Some(before));
        assert_eq!(daemon.guests().store().all().unwrap().len(), 1);
        take_back(&daemon, &guest, None);
        assert_eq!(guest.inner().definition, None);
        assert!(daemon.guests().store().all().unwrap().is_empty());
    }
}
