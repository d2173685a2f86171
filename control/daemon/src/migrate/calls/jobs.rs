//! The procedures about migrations that go on, or have ended.

use std::sync::Arc;

use pagelift_rpc::calls::{
    DomainAbortJob, DomainFlagsArgs, DomainGetJobInfo, DomainGetJobStats,
    DomainMigrateGetCompressionCache, DomainMigrateGetMaxDowntime, DomainMigrateGetMaxSpeed,
    DomainMigrateSetCompressionCache, DomainMigrateSetMaxDowntime, DomainMigrateSetMaxSpeed,
    DomainNumberArgs, JobInfo, JobStats, STATS_COMPLETED, STATS_KEEP_COMPLETED,
};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::types::Domain;
use pagelift_v3::phase::{Refusal, Source};
use serde_json::json;

use super::guest;
use crate::dispatch::{Answer, Caller, Dispatcher, Needs};
use crate::guests::{Guest, errors};
use crate::migrate::source::monitor;
use crate::migrate::{job, lock, settle};

/// Flag of speeds: that of post-copy.
const SPEED_POSTCOPY: u32 = 1;

pub(super) fn add(on: &mut Dispatcher) {
    on.on::<DomainGetJobInfo>(Needs::Open, info);
    on.on::<DomainGetJobStats>(Needs::Open, stats);
    on.on::<DomainAbortJob>(Needs::Write("virDomainAbortJob"), abort);
    on.on::<DomainMigrateGetMaxSpeed>(Needs::Open, |caller, args| {
        let guest = guest(caller, &args.domain)?;
        let settings = caller.daemon.migrations().settings(guest.uuid());
        let postcopy = args.flags & SPEED_POSTCOPY != 0;
        Ok(if postcopy {
            settings.postcopy_speed
        } else {
            settings.speed
        })
    });
    on.on::<DomainMigrateSetMaxSpeed>(Needs::Write("virDomainMigrateSetMaxSpeed"), set_speed);
    on.on::<DomainMigrateGetMaxDowntime>(Needs::Open, |caller, args| {
        let guest = active(caller, &args)?;
        Ok(caller
            .daemon
            .migrations()
            .settings(guest.uuid())
            .max_downtime)
    });
    on.on::<DomainMigrateSetMaxDowntime>(
        Needs::Write("virDomainMigrateSetMaxDowntime"),
        set_downtime,
    );
    on.on::<DomainMigrateGetCompressionCache>(Needs::Open, |caller, args| {
        let guest = active(caller, &args)?;
        Ok(caller
            .daemon
            .migrations()
            .settings(guest.uuid())
            .compression_cache)
    });
    on.on::<DomainMigrateSetCompressionCache>(
        Needs::Write("virDomainMigrateSetCompressionCache"),
        |caller, args| {
            let guest = guest(caller, &args.domain)?;
            tell(&guest, "xbzrle-cache-size", args.number)?;
            let change = |settings: &mut crate::driver::qemu::native::Settings| {
                settings.compression_cache = args.number;
            };
            caller.daemon.migrations().set(guest.uuid(), change);
            Ok(())
        },
    );
}

/// The guest, which has to run.
fn active(caller: Caller<'_>, args: &DomainFlagsArgs) -> Answer<Arc<Guest>> {
    let guest = guest(caller, &args.domain)?;
    guest.inner().qemu()?;
    Ok(guest)
}

/// Tells the guest's QEMU a number, if it has one.
fn tell(guest: &Guest, name: &str, number: u64) -> Answer<()> {
    let Ok(qemu) = guest.inner().qemu() else {
        return Ok(());
    };
    let told = qemu
        .qmp()
        .execute("migrate-set-parameters", json!({ name: number }));
    told.map(drop).map_err(monitor)
}

fn set_speed(caller: Caller<'_>, args: DomainNumberArgs) -> Answer<()> {
    let guest = guest(caller, &args.domain)?;
    pagelift_v3::params::bandwidth(args.number)?;
    let postcopy = args.flags & SPEED_POSTCOPY != 0;
    if caller.daemon.migrations().outgoing(guest.uuid()).is_some() {
        let name = if postcopy {
            "max-postcopy-bandwidth"
        } else {
            "max-bandwidth"
        };
        tell(&guest, name, args.number << 20)?;
    }
    caller
        .daemon
        .migrations()
        .set(guest.uuid(), |settings| match postcopy {
            true => settings.postcopy_speed = args.number,
            false => settings.speed = args.number,
        });
    Ok(())
}

fn set_downtime(caller: Caller<'_>, args: DomainNumberArgs) -> Answer<()> {
    let guest = guest(caller, &args.domain)?;
    let qemu = guest.inner().qemu()?;
    let limit = json!({ "downtime-limit": args.number });
    qemu.qmp()
        .execute("migrate-set-parameters", limit)
        .map_err(monitor)?;
    caller
        .daemon
        .migrations()
        .set(guest.uuid(), |settings| settings.max_downtime = args.number);
    Ok(())
}

fn info(caller: Caller<'_>, domain: Domain) -> Answer<JobInfo> {
    let guest = guest(caller, &domain)?;
    guest.inner().qemu()?;
    let outgoing = caller.daemon.migrations().outgoing(guest.uuid());
    Ok(outgoing.map_or_else(job::no_info, |outgoing| lock(&outgoing.running).info()))
}

fn stats(caller: Caller<'_>, args: DomainFlagsArgs) -> Answer<JobStats> {
    let guest = guest(caller, &args.domain)?;
    let migrations = caller.daemon.migrations();
    if args.flags & STATS_COMPLETED != 0 {
        let mut completed = lock(&migrations.completed);
        // Who may only look takes it away from nobody.
        let keep = args.flags & STATS_KEEP_COMPLETED != 0 || caller.session.is_read_only();
        let record = match keep {
            true => completed.get(&guest.uuid()).cloned(),
            false => completed.remove(&guest.uuid()),
        };
        return Ok(record.map_or_else(job::no_stats, |record| record.stats()));
    }
    if lock(&migrations.incoming).contains_key(&guest.uuid()) {
        let detail = "migration statistics are available only on the source host";
        return Err(Error::new(
            ErrorCode::OperationUnsupported,
            ErrorDomain::Qemu,
            detail,
        ));
    }
    let outgoing = migrations.outgoing(guest.uuid());
    Ok(outgoing.map_or_else(job::no_stats, |outgoing| lock(&outgoing.running).stats()))
}

fn abort(caller: Caller<'_>, domain: Domain) -> Answer<()> {
    let guest = guest(caller, &domain)?;
    let name = guest.inner().name.clone();
    let migrations = caller.daemon.migrations();
    if lock(&migrations.incoming).contains_key(&guest.uuid()) {
        return Err(Refusal::AbortOnTarget.error(&name));
    }
    let Some(outgoing) = migrations.outgoing(guest.uuid()) else {
        guest.inner().qemu().map_err(|_| errors::not_running())?;
        return Err(Refusal::NoJob.error(&name));
    };
    let aborted = outgoing.step(Source::abort);
    let actions = aborted.map_err(|refusal| refusal.error(&name))?;
    settle::act(caller.daemon, &outgoing, actions, false);
    Ok(())
}

/// Whether a person may let the guest run on; `false` for one that was held, and does so by this. The
/// caller has the guest's job: Perform begins to send only while nobody has it.
///
/// # Errors
/// When the guest is being sent or has been, and its target may have it.
pub(crate) fn may_resume(caller: Caller<'_>, guest: &Guest) -> Answer<bool> {
    let Some(outgoing) = caller.daemon.migrations().outgoing(guest.uuid()) else {
        return Ok(true);
    };
    if lock(&outgoing.machine).may_run() {
        return Ok(true);
    }
    let decided = outgoing.step(Source::decided_to_stay);
    let name = guest.inner().name.clone();
    let actions = decided.map_err(|refusal| refusal.error(&name))?;
    settle::act(caller.daemon, &outgoing, actions, true);
    Ok(false)
}
