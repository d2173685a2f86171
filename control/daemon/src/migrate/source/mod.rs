//! The source: Begin, Perform, Confirm.

mod plan;
mod send;

pub(super) use plan::{Plan, cookie, monitor, told};

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use pagelift_rpc::calls::BeginReply;
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::events::JobCompleted;
use pagelift_rpc::types::{Domain as Wire, NO_ID};
use pagelift_rpc::xdr::Opaque;
use pagelift_v3::cookie::{Arrival, Cookie, Phase};
use pagelift_v3::domain::Flavour;
use pagelift_v3::flags::Flags;
use pagelift_v3::params::Request;
use pagelift_v3::phase::{Client, Mode, Refusal, Source};
use tracing::{error, info};

use super::job::{JobRecord, Running};
use super::{Migrations, lock, peer, settle};
use crate::daemon::Daemon;
use crate::dispatch::{Answer, Caller};
use crate::guests::Guest;
use crate::store::MigrationRecord;

/// A guest that leaves.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) guest: Arc<Guest>,
    pub(super) machine: Mutex<Source>,
    pub(super) plan: Mutex<Plan>,
    pub(super) running: Mutex<Running>,
}

impl Migrations {
    /// Begin.
    pub(super) fn begin(
        caller: Caller<'_>,
        guest: Arc<Guest>,
        request: Request,
    ) -> Answer<BeginReply> {
        let protected = request.flags.has(Flags::CHANGE_PROTECTION);
        let daemon = caller.daemon;
        if daemon.migrations().outgoing(guest.uuid()).is_some() {
            return Err(Refusal::AlreadyMoving.error(&guest.inner().name));
        }
        let offline = request.flags.has(Flags::OFFLINE);
        let (plan, cookie) = Plan::new(daemon, &guest, request)?;
        let xml = plan.domain.to_xml(Flavour::Migratable);
        if protected {
            let mode = Mode::Managed(Client(caller.session.id()));
            let outgoing =
                Outgoing::bind(daemon, guest, plan, |machine| machine.begin(mode, offline))?;
            follow(caller, &outgoing);
        }
        Ok(BeginReply {
            cookie: Opaque(cookie.encode()),
            xml,
        })
    }

    /// Perform.
    pub(super) fn perform(
        caller: Caller<'_>,
        guest: Arc<Guest>,
        destination: Option<&str>,
        request: Request,
        cookie: &[u8],
    ) -> Answer<Opaque> {
        let daemon = caller.daemon;
        if let Some(destination) = destination {
            return peer::migrate(daemon, guest, destination, request).map(|()| Opaque(Vec::new()));
        }
        let uri = request.uri.clone();
        let Some(uri) = uri else {
            // A libvirtd 11.3 dies of it.
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                ErrorDomain::Qemu,
                "no migration URI passed",
            ));
        };
        let client = Client(caller.session.id());
        let unprotected = !request.flags.has(Flags::CHANGE_PROTECTION);
        let outgoing = match daemon.migrations().outgoing(guest.uuid()) {
            Some(outgoing) => {
                let outgoing = outgoing.perform(Mode::Managed(client), unprotected)?;
                // It may be another connection than Begin's.
                follow(caller, &outgoing);
                outgoing
            }
            None if unprotected => {
                let (plan, _) = Plan::new(daemon, &guest, request.clone())?;
                let mode = Mode::Managed(client);
                let outgoing =
                    Outgoing::bind(daemon, guest, plan, |machine| machine.perform(mode, true))?;
                follow(caller, &outgoing);
                outgoing
            }
            None => {
                return Err(Refusal::NotMoving.error(&guest.inner().name));
            }
        };
        outgoing
            .transfer(daemon, &uri, &request, cookie, &|| false)
            .map(|c| Opaque(c.encode()))
    }

    /// Confirm.
    pub(super) fn confirm(
        caller: Caller<'_>,
        guest: &Arc<Guest>,
        cookie: &[u8],
        cancelled: bool,
    ) -> Answer<()> {
        let daemon = caller.daemon;
        let Some(outgoing) = daemon.migrations().outgoing(guest.uuid()) else {
            return Err(Refusal::NotMoving.error(&guest.inner().name));
        };
        outgoing.confirm(daemon, cookie, cancelled)
    }
}

/// The migration ends with the caller's connection, as the machine says.
fn follow(caller: Caller<'_>, outgoing: &Arc<Outgoing>) {
    let (daemon, outgoing) = (Arc::clone(caller.daemon), Arc::clone(outgoing));
    let client = Client(caller.session.id());
    caller.session.on_close(move || {
        let actions = outgoing.step(|machine| machine.client_lost(client));
        settle::act(&daemon, &outgoing, actions, false);
    });
}

impl Outgoing {
    /// Makes the migration of a guest the one that there is, if `begin` allows it.
    pub(super) fn bind(
        daemon: &Daemon,
        guest: Arc<Guest>,
        plan: Plan,
        begin: impl FnOnce(&mut Source) -> Result<(), Refusal>,
    ) -> Answer<Arc<Self>> {
        let name = plan.name.clone();
        let mut all = lock(&daemon.migrations().outgoing);
        let Entry::Vacant(place) = all.entry(guest.uuid()) else {
            return Err(Refusal::AlreadyMoving.error(&name));
        };
        info!(name, id = %plan.id, "migration begins");
        let outgoing = Arc::new(Self {
            guest,
            machine: Mutex::default(),
            plan: Mutex::new(plan),
            running: Mutex::new(Running::new()),
        });
        outgoing
            .step(begin)
            .map_err(|refusal| refusal.error(&name))?;
        Ok(Arc::clone(place.insert(outgoing)))
    }

    /// A step of the machine. What has to be known after a crash is on the disk when this returns.
    pub(super) fn step<T>(&self, call: impl FnOnce(&mut Source) -> T) -> T {
        let mut machine = lock(&self.machine);
        let answer = call(&mut machine);
        let Some(record) = machine.record() else {
            return answer;
        };
        let plan = lock(&self.plan).clone();
        let kept = MigrationRecord {
            source: true,
            phase: record.word().to_owned(),
            id: plan.id.to_string(),
            target_name: plan.name_there().to_owned(),
            name: plan.name,
            ask: plan.ask,
            before: plan.before,
            flags: plan.request.flags.bits(),
            alike: plan.alike,
        };
        let mut inner = self.guest.inner();
        if inner.migration.as_ref() != Some(&kept) {
            inner.migration = Some(kept);
            if let Err(error) = self.guest.save(&inner) {
                error!(%error, name = inner.name, "how far a migration is is not kept");
            }
        }
        answer
    }

    /// Keeps what has become known of the migration.
    fn keep(&self) {
        self.step(|_| ());
    }

    fn perform(self: Arc<Self>, mode: Mode, unprotected: bool) -> Answer<Arc<Self>> {
        let name = lock(&self.plan).name.clone();
        let performed = self.step(|machine| machine.perform(mode, unprotected));
        performed.map_err(|refusal| refusal.error(&name))?;
        Ok(self)
    }

    pub(super) fn confirm(
        self: &Arc<Self>,
        daemon: &Arc<Daemon>,
        cookie: &[u8],
        cancelled: bool,
    ) -> Answer<()> {
        let plan = lock(&self.plan).clone();
        let arrival = Arrival {
            phase: Phase::Confirm,
            name: &plan.name,
            uuid: self.guest.uuid(),
            own_host: daemon.host().uuid,
            offline: plan.request.flags.has(Flags::OFFLINE),
        };
        // What the target has counted is welcome; whose guest it is does not depend on it.
        let d = Cookie::decode(cookie, &arrival).ok().flatten();
        let confirmed = self.step(|machine| machine.confirm(cancelled));
        let actions = confirmed.map_err(|refusal| refusal.error(&plan.name))?;
        let wire = self.guest.wire();
        let mut completed = None;
        if !cancelled && !arrival.offline {
            let own = lock(&self.running).statistics(plan.stopped_ms);
            let statistics = d.and_then(|d| d.statistics).unwrap_or(own);
            let record = JobRecord {
                incoming: false,
                statistics,
            };
            completed = Some(record.stats().params);
            lock(&daemon.migrations().completed).insert(self.guest.uuid(), record);
        }
        settle::act(daemon, self, actions, cancelled);
        if let Some(params) = completed {
            daemon.events().emit(&wire, |callback_id| JobCompleted {
                callback_id,
                domain: Wire {
                    id: NO_ID,
                    ..wire.clone()
                },
                params: params.clone(),
            });
        }
        if !cancelled && arrival.offline && plan.request.flags.has(Flags::UNDEFINE_SOURCE) {
            settle::undefine(daemon, &self.guest);
        }
        Ok(())
    }
}
