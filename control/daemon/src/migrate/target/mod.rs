//! The target: Prepare, Finish.

mod arrive;
mod build;
mod place;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use pagelift_rpc::calls::{FinishReply, PrepareReply, state};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::types::Uuid;
use pagelift_rpc::xdr::Opaque;
use pagelift_v3::cookie::{Arrival, Cookie, Engine, Extension, Phase};
use pagelift_v3::domain::Domain;
use pagelift_v3::flags::Flags;
use pagelift_v3::params::{Param, Request};
use pagelift_v3::phase::{Answer as Word, Client, Refusal, Target, TargetAction, TargetRecord};
use serde_json::Value;
use tracing::{error, info};

use super::source::{cookie, told};
use super::{Migrations, lock};
use crate::daemon::Daemon;
use crate::dispatch::{Answer, Caller};
use crate::driver::qemu::Qemu;
use crate::guests::{Ending, Guest, errors};
use crate::store::MigrationRecord;

const FINISH: &str = "remoteDispatchDomainMigrateFinish3Params";

/// A guest that arrives.
#[derive(Debug)]
pub(super) struct Incoming {
    uuid: Uuid,
    /// Its name on the source, and here.
    names: (String, String),
    machine: Mutex<Target>,
    /// The number of the migration, if the source is a daemon like this one.
    id: Option<Uuid>,
    /// Only its definition arrives.
    offline: Option<Domain>,
    /// Its QEMU, and the parameters as they were.
    qemu: Option<(Arc<Guest>, Arc<Qemu>, Value)>,
}

fn refused(code: ErrorCode, detail: impl Into<String>) -> Error {
    Error::new(code, ErrorDomain::Qemu, detail)
}

impl Migrations {
    /// Prepare.
    pub(super) fn prepare(
        caller: Caller<'_>,
        request: &Request,
        cookie_a: &[u8],
    ) -> Answer<PrepareReply> {
        let daemon = caller.daemon;
        let xml = request.options.get(Param::DESTINATION_XML);
        let xml = xml.ok_or_else(|| errors::internal("no domain XML passed"))?;
        let mut domain = daemon.guests().describe(xml)?;
        let offline = request.flags.has(Flags::OFFLINE);
        let arrival = Arrival {
            phase: Phase::Prepare,
            name: &domain.name.clone(),
            uuid: domain.uuid,
            own_host: daemon.host().uuid,
            offline,
        };
        let a = Cookie::decode(cookie_a, &arrival)?;
        let name = domain.name.clone();
        if let Some(renamed) = request.options.get(Param::DESTINATION_NAME) {
            renamed.clone_into(&mut domain.name);
        }
        let extension = a.as_ref().and_then(|a| a.extension.clone());
        let mut incoming = Incoming {
            uuid: domain.uuid,
            names: (name.clone(), domain.name.clone()),
            machine: Mutex::new(Target::Empty),
            id: extension.and_then(|extension| extension.id),
            offline: None,
            qemu: None,
        };
        let mut b = cookie(daemon, &name, domain.uuid);
        let uri;
        if offline {
            uri = Some(format!("tcp:{}:49152", daemon.migration_address()));
            incoming.offline = Some(domain);
        } else {
            build::check_disks(&domain)?;
            let place = place::Place::of(daemon, request)?;
            uri = place.told.clone();
            let acks = a.is_some_and(|a| a.capabilities.iter().any(|c| c.name == "switchover-ack"));
            let built = incoming.build(daemon, domain, request, acks, place);
            b.capabilities = told(&built?);
        }
        if incoming.id.is_some() {
            b.extension = Some(Extension {
                id: incoming.id,
                engines: vec![Engine::Native],
                ask: daemon.own_uri(),
                ..Extension::default()
            });
        }
        let client = Client(caller.session.id());
        let prepared = lock(&incoming.machine).prepare(client);
        prepared.map_err(|refusal| refusal.error(&name))?;
        let incoming = Arc::new(incoming);
        lock(&daemon.migrations().incoming).insert(incoming.uuid, Arc::clone(&incoming));
        let (daemon, lost) = (Arc::clone(daemon), Arc::clone(&incoming));
        caller.session.on_close(move || {
            let actions = lock(&lost.machine).client_lost(client);
            if !actions.is_empty() {
                info!(
                    name = lost.names.1,
                    "a guest that was to arrive is dropped with its client"
                );
            }
            lost.act(&daemon, actions);
        });
        Ok(PrepareReply {
            cookie: Opaque(b.encode()),
            uri,
        })
    }

    /// The guest that arrives under a name, by this migration if its number is known. One whose QEMU has
    /// ended does not arrive any more.
    fn arriving(&self, name: &str, id: Option<Uuid>) -> Option<Arc<Incoming>> {
        let mut all = lock(&self.incoming);
        all.retain(|_, incoming| {
            if incoming.has_its_qemu() {
                return true;
            }
            let mut machine = lock(&incoming.machine);
            machine.guest_died();
            *machine != Target::Empty
        });
        let meant = |incoming: &&Arc<Incoming>| {
            incoming.names.1 == name && (id.is_none() || incoming.id == id)
        };
        all.values().find(meant).cloned()
    }

    /// What is said of a guest that does not arrive. A guest of that name is not enough to say that it has
    /// come: the source would end its own.
    fn not_arriving(&self, id: Option<Uuid>) -> Refusal {
        match id.is_some_and(|id| lock(&self.arrived).contains(&id)) {
            true => Refusal::NotIncoming,
            false => Refusal::NoGuest,
        }
    }

    /// Finish.
    pub(super) fn finish(
        caller: Caller<'_>,
        request: &Request,
        cookie_c: &[u8],
        cancelled: bool,
    ) -> Answer<FinishReply> {
        let daemon = caller.daemon;
        let migrations = daemon.migrations();
        let Some(name) = request.options.get(Param::DESTINATION_NAME) else {
            return Err(refused(ErrorCode::NoDomain, "missing domain name"));
        };
        let id = Cookie::number(cookie_c);
        let Some(incoming) = migrations.arriving(name, id) else {
            let own = daemon.host().uuid;
            if Cookie::host(cookie_c) == Some(own) {
                // A source that was told a wrong address of its target, and asks itself. (A client that gives
                // up after Prepare hands back the cookie of this host as well: there a guest arrives.)
                let detail = format!("Attempt to migrate guest to the same host {own}");
                return Err(refused(ErrorCode::InternalError, detail));
            }
            return Err(migrations.not_arriving(id).error(name));
        };
        match cancelled {
            true => Err(incoming.asked(daemon)),
            false => incoming.finish(daemon, request, cookie_c),
        }
    }

    fn forget(&self, incoming: &Incoming) {
        let mut all = lock(&self.incoming);
        let own = all.get(&incoming.uuid);
        if own.is_some_and(|own| std::ptr::eq(Arc::as_ptr(own), incoming)) {
            all.remove(&incoming.uuid);
        }
    }
}

impl Incoming {
    /// What has to be known after a crash.
    fn record(&self, phase: TargetRecord, request: &Request) -> MigrationRecord {
        MigrationRecord {
            source: false,
            phase: phase.word().to_owned(),
            id: self.id.map_or_else(String::new, |id| id.to_string()),
            name: self.names.0.clone(),
            target_name: self.names.1.clone(),
            ask: None,
            before: state::PAUSED_MIGRATION,
            flags: request.flags.bits(),
            alike: self.id.is_some(),
        }
    }

    /// Whether the guest still has the QEMU that it is to arrive in.
    fn has_its_qemu(&self) -> bool {
        let Some((guest, qemu, _)) = &self.qemu else {
            return true;
        };
        let now = guest.inner().qemu();
        now.is_ok_and(|now| Arc::ptr_eq(&now, qemu))
    }

    /// The answer to Finish when it is cancelled, which is how a source asks as well: the guest is dropped
    /// if it is not this host's yet.
    fn asked(&self, daemon: &Arc<Daemon>) -> Error {
        let name = &self.names.1;
        let (word, _) = lock(&self.machine).asked();
        match word {
            None => Refusal::Starting.error(name),
            Some(Word::Runs) => Refusal::NotIncoming.error(name),
            // Also one that was dropped before, and whose QEMU would not end then.
            Some(Word::Dropped) => match self.destroy(daemon) {
                Ok(()) => refused(ErrorCode::MigrateFinishOk, ""),
                Err(error) => error,
            },
        }
    }

    /// The guest does not come: it is dropped, as if the client had said so.
    fn abandon(&self, daemon: &Arc<Daemon>) {
        let actions = lock(&self.machine).finish(true, pagelift_v3::phase::Incoming::Nothing);
        self.act(daemon, actions.unwrap_or_default());
    }

    fn act(&self, daemon: &Arc<Daemon>, actions: Vec<TargetAction>) {
        for action in actions {
            // Starting is done by Finish, which has the answer to give.
            if action == TargetAction::Destroy
                && let Err(error) = self.destroy(daemon)
            {
                error!(%error, name = self.names.1, "the process of a guest that does not arrive is still there");
            }
        }
    }

    /// Ends the guest's QEMU, if it is still there; what is known of the guest is forgotten when it has ended.
    ///
    /// # Errors
    /// Code 68 where it cannot be ended now: a source that asks is to ask again.
    fn destroy(&self, daemon: &Arc<Daemon>) -> Answer<()> {
        if let Some((guest, ..)) = &self.qemu {
            let job = guest.begin(FINISH)?;
            if self.has_its_qemu()
                && let Err(error) = daemon.guests().end(&job, Ending::Failed)
                && self.has_its_qemu()
            {
                let detail = error.to_string();
                return Err(refused(ErrorCode::OperationTimeout, detail));
            }
        }
        daemon.migrations().forget(self);
        Ok(())
    }
}
