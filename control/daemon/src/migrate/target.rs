//! The target: Prepare, Finish.

use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pagelift_rpc::calls::{FinishReply, PrepareReply, state};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::events::lifecycle;
use pagelift_rpc::types::Uuid;
use pagelift_rpc::xdr::Opaque;
use pagelift_v3::cookie::{Arrival, Cookie, Engine, Extension, Phase};
use pagelift_v3::domain::Domain;
use pagelift_v3::flags::Flags;
use pagelift_v3::params::{MigrateUri, Param, Request};
use pagelift_v3::phase::{Client, Refusal, Target, TargetAction};
use serde_json::Value;
use tracing::{error, info, warn};

use super::job::{JobRecord, now_ms};
use super::source::{cookie, monitor, told};
use super::{Migrations, lock};
use crate::daemon::Daemon;
use crate::dispatch::{Answer, Caller};
use crate::driver::qemu::Qemu;
use crate::driver::qemu::native::{self, Side};
use crate::guests::{Ending, Guest, Job, errors};

/// How long the last of a guest may take to come in after the source has sent it.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(60);

const PREPARE: &str = "remoteDispatchDomainMigratePrepare3Params";
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
    /// Its port, if it was chosen here.
    port: Option<u16>,
    /// Its QEMU, and the parameters as they were.
    qemu: Option<(Arc<Guest>, Arc<Qemu>, Value)>,
}

fn refused(code: ErrorCode, detail: impl Into<String>) -> Error {
    Error::new(code, ErrorDomain::Qemu, detail)
}

/// Refuses a disk that is not here.
fn check_disks(domain: &Domain) -> Answer<()> {
    for source in domain
        .devices
        .disks
        .iter()
        .filter_map(|disk| disk.source.as_ref())
    {
        let path = source.path();
        if let Err(error) = std::fs::metadata(path) {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "No such file or directory".to_owned(),
                _ => error.to_string(),
            };
            let detail = format!("Cannot access storage file '{path}': {why}");
            return Err(Error::new(
                ErrorCode::SystemError,
                ErrorDomain::Storage,
                detail,
            ));
        }
    }
    Ok(())
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
            port: None,
            qemu: None,
        };
        let mut b = cookie(daemon, &name, domain.uuid);
        let mut uri = None;
        if offline {
            uri = Some(format!("tcp:{}:49152", daemon.migration_address()));
            incoming.offline = Some(domain);
        } else {
            check_disks(&domain)?;
            let place = daemon.migrations().place(daemon, request)?;
            incoming.port = place.taken;
            let acks = a.is_some_and(|a| a.capabilities.iter().any(|c| c.name == "switchover-ack"));
            let built = incoming.build(daemon, domain, request, acks, &place.listen);
            let has = match built {
                Ok(has) => has,
                Err(error) => {
                    incoming.give_back(daemon);
                    return Err(error);
                }
            };
            b.capabilities = told(&has);
            uri = place.told.or(uri);
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
        let before =
            lock(&daemon.migrations().incoming).insert(incoming.uuid, Arc::clone(&incoming));
        if let Some(before) = before {
            before.give_back(daemon);
        }
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

    /// Where a guest is to arrive.
    fn place(&self, daemon: &Daemon, request: &Request) -> Answer<Place> {
        let config = &daemon.config().migration;
        let listen = request
            .options
            .get(Param::LISTEN_ADDRESS)
            .map(str::to_owned);
        let listen = listen.or_else(|| config.listen.clone()).unwrap_or_else(|| {
            let dual = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
            if dual { "::" } else { "0.0.0.0" }.to_owned()
        });
        let at = |port: u16| match listen.contains(':') {
            true => format!("tcp:[{listen}]:{port}"),
            false => format!("tcp:{listen}:{port}"),
        };
        if let Some(MigrateUri::Unix(path)) = &request.uri {
            return Ok(Place {
                listen: format!("unix:{path}"),
                told: None,
                taken: None,
            });
        }
        if let Some(MigrateUri::Tcp {
            port: Some(port), ..
        }) = &request.uri
        {
            return Ok(Place {
                listen: at(*port),
                told: None,
                taken: None,
            });
        }
        let port = self.ports.take();
        let port = port.ok_or_else(|| {
            errors::internal("Unable to find an unused port in range 'migration' (49152-49215)")
        })?;
        let told = match &request.uri {
            Some(uri) => uri.with_port(port).to_string(),
            None => format!("tcp:{}:{port}", daemon.migration_address()),
        };
        Ok(Place {
            listen: at(port),
            told: Some(told),
            taken: Some(port),
        })
    }
}

/// Where a guest is to arrive.
struct Place {
    /// What QEMU listens at.
    listen: String,
    /// What the source is told, where it does not know.
    told: Option<String>,
    /// The port that was chosen.
    taken: Option<u16>,
}

impl Incoming {
    /// Builds the machine, and lets it wait for the guest; what its QEMU can do.
    fn build(
        &mut self,
        daemon: &Arc<Daemon>,
        domain: Domain,
        request: &Request,
        acks: bool,
        listen: &str,
    ) -> Answer<Vec<String>> {
        let guests = daemon.guests();
        let job = guests.claim(&domain, PREPARE)?;
        let guest = Arc::clone(job.guest());
        let qemu = guests.launch(&job, domain, true).inspect_err(|_| {
            guests.forget_if_gone(&guest);
        })?;
        let built = self.wait_for_guest(daemon, &job, &qemu, request, acks, listen);
        if built.is_err()
            && let Err(error) = guests.end(&job, Ending::Failed)
        {
            error!(%error, "the process of a guest that cannot arrive is still there");
        }
        built
    }

    fn wait_for_guest(
        &mut self,
        daemon: &Arc<Daemon>,
        job: &Job,
        qemu: &Arc<Qemu>,
        request: &Request,
        acks: bool,
        listen: &str,
    ) -> Answer<Vec<String>> {
        let guest = Arc::clone(job.guest());
        let qmp = qemu.qmp();
        let has = native::capabilities(qmp).map_err(monitor)?;
        request.check_capabilities(|name| has.iter().any(|has| has == name))?;
        let settings = daemon.migrations().settings(guest.uuid());
        let acks = acks && has.iter().any(|name| name == "switchover-ack");
        let before =
            native::prepare(qmp, Side::Target, request, &settings, acks).map_err(monitor)?;
        native::listen(qmp, listen).map_err(|error| {
            let why = error
                .refusal()
                .map_or_else(|| error.to_string(), str::to_owned);
            errors::internal(format!(
                "unable to execute QEMU command 'migrate-incoming': {why}"
            ))
        })?;
        let mut inner = guest.inner();
        inner.state = state::PAUSED_MIGRATION;
        guest.save(&inner)?;
        drop(inner);
        daemon
            .events()
            .lifecycle(&guest.wire(), lifecycle::STARTED_MIGRATED);
        self.qemu = Some((guest, Arc::clone(qemu), before));
        Ok(has)
    }

    fn finish(
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
        let actions = {
            let finished = lock(&self.machine).finish(false, incoming);
            finished.map_err(|refusal| refusal.error(name))?
        };
        if actions != [TargetAction::Start] {
            let why = native::progress(qemu.qmp()).map_err(monitor)?;
            let why = why.error().unwrap_or("QEMU does not say why").to_owned();
            drop(job);
            self.act(daemon, actions);
            let detail = format!("job 'migration in' failed: {why}");
            return Err(refused(ErrorCode::OperationFailed, detail));
        }
        let paused = request.flags.has(Flags::PAUSED);
        let started = self.start(daemon, guest, qemu, paused);
        let actions = lock(&self.machine).started(started.is_ok());
        if let Err(error) = started {
            drop(job);
            self.act(daemon, actions);
            return Err(error);
        }
        if let Err(error) = native::restore(qemu.qmp(), before) {
            warn!(%error, name, "settings of a migration are left in a QEMU");
        }
        drop(job);
        if let Some(id) = self.id {
            daemon.migrations().remember(id);
        }
        daemon.migrations().forget(self);
        self.give_back(daemon);
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
        paused: bool,
    ) -> Answer<()> {
        let mut inner = guest.inner();
        inner.state = if paused {
            state::PAUSED_USER
        } else {
            state::RUNNING_MIGRATED
        };
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
            self.give_back(daemon);
        }
    }

    fn give_back(&self, daemon: &Daemon) {
        if let Some(port) = self.port {
            daemon.migrations().ports.give_back(port);
        }
    }
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
