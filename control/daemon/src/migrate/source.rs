//! The source: Begin, Perform, Confirm.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use pagelift_rpc::calls::{BeginReply, state};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::events::{MigrationIteration, lifecycle};
use pagelift_rpc::types::Uuid;
use pagelift_rpc::xdr::Opaque;
use pagelift_v3::cookie::{
    Arrival, Capability, Cookie, Engine, Extension, Feature, Identity, Phase,
};
use pagelift_v3::domain::{Domain, Flavour, check_abi};
use pagelift_v3::flags::Flags;
use pagelift_v3::params::{MigrateUri, Param, Request};
use pagelift_v3::phase::{Client, Mode, Refusal, Source};
use pagelift_v3::safety::{self, Facts, Risk};
use tracing::info;

use super::job::{JobRecord, Running, now_ms};
use super::{Migrations, lock, peer, settle};
use crate::daemon::Daemon;
use crate::dispatch::{Answer, Caller};
use crate::driver::qemu::Qemu;
use crate::driver::qemu::native::{self, Progress, Side};
use crate::guests::{Guest, errors};
use crate::host::random_uuid;

/// Capabilities that the other side is told of, in libvirt's order.
const TOLD: [&str; 13] = [
    "xbzrle",
    "auto-converge",
    "rdma-pin-all",
    "postcopy-ram",
    "pause-before-switchover",
    "late-block-activate",
    "multifd",
    "dirty-bitmaps",
    "return-path",
    "zero-copy-send",
    "postcopy-preempt",
    "switchover-ack",
    "mapped-ram",
];

/// A guest that leaves.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) guest: Arc<Guest>,
    pub(super) machine: Mutex<Source>,
    pub(super) plan: Mutex<Plan>,
    pub(super) running: Mutex<Running>,
}

/// What is known of it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The number of the migration.
    pub(super) id: Uuid,
    /// What was asked for in Begin.
    pub(super) request: Request,
    /// The guest's name here.
    pub(super) name: String,
    /// The guest for the target.
    pub(super) domain: Domain,
    /// What the target is to define.
    pub(super) persistent: Option<Domain>,
    /// The guest's state before it was sent.
    pub(super) before: (i32, i32),
    /// Where the target can be asked.
    pub(super) ask: Option<String>,
    /// When the guest was stopped, in ms since 1970.
    pub(super) stopped_ms: u64,
}

impl Plan {
    /// Looks at everything that a migration needs on this side.
    pub(super) fn new(daemon: &Daemon, guest: &Guest, request: Request) -> Answer<(Self, Cookie)> {
        let offline = request.flags.has(Flags::OFFLINE);
        let inner = guest.inner();
        let (active, before, name) = (inner.active.is_some(), inner.state, inner.name.clone());
        let current = inner.current().cloned().ok_or_else(errors::not_running)?;
        let definition = inner.definition.clone();
        let qemu = inner.qemu().ok();
        drop(inner);
        if offline && active {
            let detail =
                "domain is running: only the definition of one that is shut off can be moved";
            return Err(errors::invalid(detail));
        }
        let facts = Facts {
            active: active && qemu.is_some(),
            snapshots: 0,
            blockers: match &qemu {
                Some(qemu) if !offline => native::progress(qemu.qmp()).map_err(monitor)?.blockers(),
                _ => Vec::new(),
            },
            unshared_disks: unshared(daemon, &current),
            io_error: before == state::PAUSED_IO_ERROR,
            block_job: false,
        };
        safety::check(request.flags, &request.risks, &facts)?;
        let has = match &qemu {
            Some(qemu) => native::capabilities(qemu.qmp()).map_err(monitor)?,
            None => Vec::new(),
        };
        if !offline {
            request.check_capabilities(|name| has.iter().any(|has| has == name))?;
        }
        let replaced = |xml: Option<&str>, of: &Domain| -> Answer<Option<Domain>> {
            let Some(xml) = xml else { return Ok(None) };
            let mut domain = Domain::parse(xml)?;
            domain
                .resolve_machine(|machine| (machine != of.os.machine).then(|| machine.to_owned()));
            if !request.risks.contains(&Risk::GuestAbi) {
                check_abi(of, &domain)?;
            }
            Ok(Some(domain))
        };
        let target = replaced(request.options.get(Param::DESTINATION_XML), &current)?;
        let persistent = replaced(request.options.get(Param::PERSISTENT_XML), &current)?;
        let cookie = cookie(daemon, &name, guest.uuid());
        let id = random_uuid().map_err(errors::internal)?;
        let cookie = Cookie {
            features: vec![Feature::Lockstate],
            cpu: current.live.as_ref().map(|live| live.cpu.clone()),
            capabilities: if offline { Vec::new() } else { told(&has) },
            extension: Some(Extension {
                id: Some(id),
                engines: vec![Engine::Native],
                ..Extension::default()
            }),
            ..cookie
        };
        let persists = request.flags.has(Flags::PERSIST_DEST);
        let plan = Self {
            id,
            name,
            persistent: persistent
                .or(definition)
                .or_else(|| Some(current.clone()))
                .filter(|_| persists),
            domain: target.unwrap_or(current),
            request,
            before,
            ask: None,
            stopped_ms: 0,
        };
        Ok((plan, cookie))
    }
}

/// A cookie of this host, about a guest.
pub(super) fn cookie(daemon: &Daemon, name: &str, uuid: Uuid) -> Cookie {
    let host = daemon.host();
    Cookie::new(Identity {
        name: name.to_owned(),
        uuid,
        hostname: host.name.clone(),
        hostuuid: host.uuid,
    })
}

/// What the other side is told of a QEMU that has these capabilities.
pub(super) fn told(has: &[String]) -> Vec<Capability> {
    let all = TOLD
        .iter()
        .filter(|name| has.iter().any(|has| has == *name));
    let auto = |name: &str| matches!(name, "return-path");
    all.map(|name| Capability {
        name: (*name).to_owned(),
        auto: auto(name),
    })
    .collect()
}

pub(super) fn monitor(error: pagelift_control::qmp::QmpError) -> Error {
    errors::internal(error)
}

/// The disks that the guest writes and that the other side does not see.
fn unshared(daemon: &Daemon, domain: &Domain) -> Vec<String> {
    let shared = &daemon.config().migration.shared_directories;
    let written = domain
        .devices
        .disks
        .iter()
        .filter(|disk| !disk.readonly && !disk.shareable);
    let alone = written.filter(|disk| {
        let path = disk
            .source
            .as_ref()
            .map(|source| std::path::Path::new(source.path()));
        path.is_some_and(|path| {
            !shared.iter().any(|dir| path.starts_with(dir)) && !is_network_file_system(path)
        })
    });
    alone.map(|disk| disk.target.clone()).collect()
}

/// Whether a file system is one that several hosts see, by the kernel's number of its kind: NFS, GFS2, OCFS2,
/// AFS, SMB, Ceph, GPFS.
fn is_network_file_system(path: &std::path::Path) -> bool {
    const KINDS: [i64; 9] = [
        0x6969,
        0x0116_1970,
        0x7461_636f,
        0x5346_414f,
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x00c3_6400,
        0x4750_4653,
    ];
    rustix::fs::statfs(path).is_ok_and(|stat| KINDS.contains(&stat.f_type))
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
            Some(outgoing) => outgoing.perform(Mode::Managed(client), unprotected)?,
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
            .transfer(daemon, &uri, &request, cookie)
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
        let actions = lock(&outgoing.machine).client_lost(client);
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
        let mut machine = Source::Idle;
        begin(&mut machine).map_err(|refusal| refusal.error(&name))?;
        info!(name, id = %plan.id, "migration begins");
        let outgoing = Arc::new(Self {
            guest,
            machine: Mutex::new(machine),
            plan: Mutex::new(plan),
            running: Mutex::new(Running::new()),
        });
        Ok(Arc::clone(place.insert(outgoing)))
    }

    fn perform(self: Arc<Self>, mode: Mode, unprotected: bool) -> Answer<Arc<Self>> {
        let name = lock(&self.plan).name.clone();
        let performed = lock(&self.machine).perform(mode, unprotected);
        performed.map_err(|refusal| refusal.error(&name))?;
        Ok(self)
    }

    /// Sends the guest; when this fails, the guest goes on here and nothing of the migration is left.
    pub(super) fn transfer(
        self: &Arc<Self>,
        daemon: &Arc<Daemon>,
        uri: &MigrateUri,
        request: &Request,
        cookie_b: &[u8],
    ) -> Answer<Cookie> {
        *lock(&self.running) = Running::new();
        let sent = self.send(daemon, uri, request, cookie_b);
        let actions = lock(&self.machine).performed(sent.is_ok());
        if sent.is_ok() {
            let mut inner = self.guest.inner();
            inner.state = state::PAUSED_MIGRATION;
            self.guest.save(&inner)?;
            drop(inner);
            daemon
                .events()
                .lifecycle(&self.guest.wire(), lifecycle::SUSPENDED_MIGRATED);
        }
        settle::act(daemon, self, actions, false);
        sent?;
        let plan = lock(&self.plan).clone();
        let mut c = cookie(daemon, &plan.name, self.guest.uuid());
        if let Some(persistent) = plan.persistent {
            c.features.push(Feature::Persistent);
            c.persistent = Some(Box::new(persistent));
        }
        c.statistics = Some(lock(&self.running).statistics(plan.stopped_ms));
        // The source's word that all was sent.
        c.extension = Some(Extension {
            id: Some(plan.id),
            ..Extension::default()
        });
        Ok(c)
    }

    fn send(
        &self,
        daemon: &Arc<Daemon>,
        uri: &MigrateUri,
        request: &Request,
        cookie_b: &[u8],
    ) -> Answer<()> {
        let name = lock(&self.plan).name.clone();
        let arrival = Arrival {
            phase: Phase::Perform,
            name: &name,
            uuid: self.guest.uuid(),
            own_host: daemon.host().uuid,
            offline: false,
        };
        let b = Cookie::decode(cookie_b, &arrival)?;
        let acks = b
            .as_ref()
            .is_some_and(|b| b.capabilities.iter().any(|c| c.name == "switchover-ack"));
        let mut plan = lock(&self.plan);
        if let Some(extension) = b.and_then(|b| b.extension) {
            plan.ask = extension.ask.or_else(|| plan.ask.take());
            plan.id = extension.id.unwrap_or(plan.id);
        }
        let before = plan.before;
        drop(plan);
        let qemu = self.guest.inner().qemu()?;
        let qmp = qemu.qmp();
        let settings = daemon.migrations().settings(self.guest.uuid());
        let kept = native::prepare(qmp, Side::Source, request, &settings, acks).map_err(monitor)?;
        if !request.flags.has(Flags::LIVE) && before.0 == state::RUNNING_BOOTED.0 {
            qmp.execute("stop", serde_json::Value::Null)
                .map_err(monitor)?;
            lock(&self.plan).stopped_ms = now_ms();
        }
        let sent = self.follow_qemu(daemon, &qemu, &qemu_uri(uri)?);
        if sent.is_err() {
            let _goes_on_as_it_is = native::restore(qmp, &kept);
        }
        sent
    }

    fn follow_qemu(&self, daemon: &Arc<Daemon>, qemu: &Qemu, uri: &str) -> Answer<()> {
        let mut rounds = 0;
        let ended = native::send(qemu.qmp(), uri, |progress| {
            let now = progress.part("ram", "dirty-sync-count").unwrap_or(0);
            lock(&self.running).progress = progress.clone();
            while rounds < now {
                rounds += 1;
                let wire = self.guest.wire();
                daemon
                    .events()
                    .emit(&wire, |callback_id| MigrationIteration {
                        callback_id,
                        domain: wire.clone(),
                        iteration: i32::try_from(rounds).unwrap_or(i32::MAX),
                    });
            }
        });
        let ended = ended.map_err(|error| {
            let active = self.guest.inner().active.is_some();
            if active {
                monitor(error)
            } else {
                errors::not_running()
            }
        })?;
        if ended.status() == "completed" {
            let downtime = ended.number("downtime").unwrap_or(0);
            let mut plan = lock(&self.plan);
            if plan.stopped_ms == 0 && plan.before.0 == state::RUNNING_BOOTED.0 {
                plan.stopped_ms = now_ms().saturating_sub(downtime);
            }
            return Ok(());
        }
        let cancelled = lock(&self.machine).is_cancelled();
        Err(failure(&ended, uri, cancelled))
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
        let confirmed = lock(&self.machine).confirm(cancelled);
        let actions = confirmed.map_err(|refusal| refusal.error(&plan.name))?;
        if !cancelled && !arrival.offline {
            let own = lock(&self.running).statistics(plan.stopped_ms);
            let statistics = d.and_then(|d| d.statistics).unwrap_or(own);
            let record = JobRecord {
                incoming: false,
                statistics,
            };
            lock(&daemon.migrations().completed).insert(self.guest.uuid(), record);
        }
        settle::act(daemon, self, actions, cancelled);
        if !cancelled && plan.request.flags.has(Flags::UNDEFINE_SOURCE) {
            settle::undefine(daemon, &self.guest);
        }
        Ok(())
    }
}

/// Where QEMU is to send the guest.
fn qemu_uri(uri: &MigrateUri) -> Answer<String> {
    match uri {
        MigrateUri::Unix(path) => Ok(format!("unix:{path}")),
        MigrateUri::Tcp {
            host,
            port: Some(port),
            ..
        } if host.contains(':') => Ok(format!("tcp:[{host}]:{port}")),
        MigrateUri::Tcp {
            host,
            port: Some(port),
            ..
        } => Ok(format!("tcp:{host}:{port}")),
        MigrateUri::Tcp { port: None, .. } => Err(Error::new(
            ErrorCode::InvalidArgument,
            ErrorDomain::Qemu,
            format!("missing port in migration URI: {uri}"),
        )),
    }
}

/// Why QEMU did not send the guest.
fn failure(ended: &Progress, uri: &str, cancelled: bool) -> Error {
    let qemu = |code, detail: String| Error::new(code, ErrorDomain::Qemu, detail);
    // QEMU may say that its connection failed, because that is how it is cancelled.
    if cancelled || ended.status() == "cancelled" {
        let detail = "job 'migration out' canceled by client";
        return qemu(ErrorCode::OperationAborted, detail.into());
    }
    let why = ended.error().unwrap_or("QEMU does not say why");
    if why.contains("connect") {
        let server = uri.strip_prefix("tcp:").unwrap_or(uri);
        let reason = why.rsplit(": ").next().unwrap_or(why);
        let detail = format!("unable to connect to server at '{server}': {reason}");
        return Error::new(ErrorCode::SystemError, ErrorDomain::Rpc, detail);
    }
    qemu(
        ErrorCode::OperationFailed,
        format!("job 'migration out' failed: {why}"),
    )
}
