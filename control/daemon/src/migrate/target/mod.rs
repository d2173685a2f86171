//! The target: Prepare, Finish.

mod arrive;
mod build;
mod place;

use std::sync::{Arc, Mutex};

use pagelift_rpc::calls::{FinishReply, PrepareReply, state};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::types::Uuid;
use pagelift_rpc::xdr::Opaque;
use pagelift_v3::cookie::{Arrival, Cookie, Engine, Extension, Phase};
use pagelift_v3::domain::Domain;
use pagelift_v3::flags::Flags;
use pagelift_v3::params::{Param, Request};
use pagelift_v3::phase::{Client, Refusal, Target, TargetAction, TargetRecord};
use serde_json::Value;
use tracing::{info, warn};

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

    /// The guest that arrives under a name.
    fn arriving(&self, name: &str) -> Option<Arc<Incoming>> {
        let all = lock(&self.incoming);
        all.values()
            .find(|incoming| incoming.names.1 == name)
            .cloned()
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
        let Some(incoming) = migrations.arriving(name) else {
            let id = Cookie::number(cookie_c);
            let arrived = id.is_some_and(|id| lock(&migrations.arrived).contains(&id));
            let refusal = match arrived || daemon.guests().by_name(name).is_ok() {
                true => Refusal::NotIncoming,
                false => Refusal::NoGuest,
            };
            return Err(refusal.error(name));
        };
        if cancelled {
            let actions = {
                let mut machine = lock(&incoming.machine);
                let finished = machine.finish(true, pagelift_v3::phase::Incoming::Nothing);
                finished.map_err(|refusal| refusal.error(name))?
            };
            incoming.act(daemon, actions);
            return Err(refused(ErrorCode::MigrateFinishOk, ""));
        }
        let finished = incoming.finish(daemon, request, cookie_c);
        if finished.is_err() && *lock(&incoming.machine) == Target::Empty {
            migrations.forget(&incoming);
        }
        finished
    }

    fn forget(&self, incoming: &Incoming) {
        lock(&self.incoming).remove(&incoming.uuid);
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
            if action != TargetAction::Destroy {
                continue;
            }
            if let Some((guest, ..)) = &self.qemu {
                let ended = guest
                    .begin(FINISH)
                    .and_then(|job| daemon.guests().end(&job, Ending::Failed));
                if let Err(error) = ended {
                    warn!(%error, name = self.names.1, "a guest that does not arrive has ended by itself");
                }
            }
            daemon.migrations().forget(self);
        }
    }
}
