//! Perform: the guest is sent.

use std::sync::Arc;

use pagelift_rpc::calls::state;
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::events::{MigrationIteration, lifecycle};
use pagelift_v3::cookie::{Arrival, Cookie, Extension, Feature, Phase};
use pagelift_v3::flags::Flags;
use pagelift_v3::params::{MigrateUri, Request};
use pagelift_v3::phase::Source;

use super::{Outgoing, cookie, monitor};
use crate::daemon::Daemon;
use crate::dispatch::Answer;
use crate::driver::qemu::Qemu;
use crate::driver::qemu::native::{self, Progress, Side};
use crate::guests::errors;
use crate::migrate::job::{Running, now_ms};
use crate::migrate::{lock, settle};

impl Outgoing {
    /// Sends the guest; when this fails, the guest goes on here and nothing of the migration is left.
    pub(in crate::migrate) fn transfer(
        self: &Arc<Self>,
        daemon: &Arc<Daemon>,
        uri: &MigrateUri,
        request: &Request,
        cookie_b: &[u8],
        lost: &dyn Fn() -> bool,
    ) -> Answer<Cookie> {
        *lock(&self.running) = Running::new();
        let sent = self.send(daemon, uri, request, cookie_b, lost);
        let actions = self.step(|machine| machine.performed(sent.is_ok()));
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
        self: &Arc<Self>,
        daemon: &Arc<Daemon>,
        uri: &MigrateUri,
        request: &Request,
        cookie_b: &[u8],
        lost: &dyn Fn() -> bool,
    ) -> Answer<()> {
        // Whoever lets the guest run on has its job: from here on it is seen that it is being sent.
        drop(
            self.guest
                .begin("remoteDispatchDomainMigratePerform3Params")?,
        );
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
            // A daemon that goes to the target itself has an address that reaches it.
            plan.ask = plan.ask.take().or(extension.ask);
            plan.id = extension.id.unwrap_or(plan.id);
            plan.alike = true;
        }
        let before = plan.before;
        drop(plan);
        self.keep();
        let qemu = self.guest.inner().qemu()?;
        let qmp = qemu.qmp();
        let settings = daemon.migrations().settings(self.guest.uuid());
        let kept = native::prepare(qmp, Side::Source, request, &settings, acks).map_err(monitor)?;
        if !request.flags.has(Flags::LIVE) && before.0 == state::RUNNING_BOOTED.0 {
            qmp.execute("stop", serde_json::Value::Null)
                .map_err(monitor)?;
            lock(&self.plan).stopped_ms = now_ms();
        }
        let sent = self.follow_qemu(daemon, &qemu, &qemu_uri(uri)?, lost);
        if sent.is_err() {
            let _goes_on_as_it_is = native::restore(qmp, &kept);
        }
        sent
    }

    fn follow_qemu(
        self: &Arc<Self>,
        daemon: &Arc<Daemon>,
        qemu: &Qemu,
        uri: &str,
        lost: &dyn Fn() -> bool,
    ) -> Answer<()> {
        let mut rounds = 0;
        let mut given_up = None;
        let plan = lock(&self.plan);
        // One that had failed before is moved by a user who takes that risk.
        let ends_on_error =
            plan.request.flags.has(Flags::ABORT_ON_ERROR) && plan.before != state::PAUSED_IO_ERROR;
        drop(plan);
        let failed = || ends_on_error && self.guest.inner().state == state::PAUSED_IO_ERROR;
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
            if given_up.is_none() {
                given_up = match (failed(), lost()) {
                    (true, _) => Some("a disk of the guest has failed while it was being sent"),
                    (false, true) => Some("Lost connection to destination host"),
                    (false, false) => return,
                };
                let actions = self.step(Source::abort).unwrap_or_default();
                settle::act(daemon, self, actions, false);
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
        if let Some(why) = given_up {
            return Err(Error::new(
                ErrorCode::OperationFailed,
                ErrorDomain::Qemu,
                why,
            ));
        }
        let cancelled = lock(&self.machine).is_cancelled();
        Err(failure(&ended, uri, cancelled))
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
