//! The procedures of migrations and their jobs.

use std::sync::Arc;

use pagelift_rpc::calls::{
    BeginArgs, BeginParamsArgs, ConfirmArgs, ConfirmParamsArgs, DomainAbortJob, DomainFlagsArgs,
    DomainGetJobInfo, DomainGetJobStats, DomainMigrateGetCompressionCache,
    DomainMigrateGetMaxDowntime, DomainMigrateGetMaxSpeed, DomainMigrateSetCompressionCache,
    DomainMigrateSetMaxDowntime, DomainMigrateSetMaxSpeed, DomainNumberArgs, FinishArgs,
    FinishParamsArgs, JobInfo, JobStats, MigrateBegin3, MigrateBegin3Params, MigrateConfirm3,
    MigrateConfirm3Params, MigrateFinish3, MigrateFinish3Params, MigratePerform3,
    MigratePerform3Params, MigratePrepare3, MigratePrepare3Params, PerformArgs, PerformParamsArgs,
    PrepareArgs, PrepareParamsArgs, STATS_COMPLETED, STATS_KEEP_COMPLETED,
};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::params::TypedParam;
use pagelift_rpc::types::Domain;
use pagelift_v3::flags::Driver;
use pagelift_v3::params::{Param, Request};
use pagelift_v3::phase::{Refusal, Source};
use serde_json::json;

use super::source::monitor;
use super::{Migrations, job, lock, settle};
use crate::dispatch::{Answer, Caller, Dispatcher, Needs};
use crate::guests::{Guest, errors};

/// Flag of speeds: that of post-copy.
const SPEED_POSTCOPY: u32 = 1;

pub(crate) fn add(on: &mut Dispatcher) {
    on.on::<MigrateBegin3Params>(
        Needs::Write("virDomainMigrateBegin3Params"),
        |caller, args| {
            let BeginParamsArgs {
                domain,
                params,
                flags,
            } = args;
            let request = read("qemuDomainMigrateBegin3Params", flags.into(), &params)?;
            Migrations::begin(caller, guest(caller, &domain)?, request)
        },
    );
    on.on::<MigratePrepare3Params>(
        Needs::Write("virDomainMigratePrepare3Params"),
        |caller, args| {
            let PrepareParamsArgs {
                params,
                cookie,
                flags,
            } = args;
            let request = read_there("qemuDomainMigratePrepare3Params", flags.into(), &params)?;
            Migrations::prepare(caller, &request, &cookie.0)
        },
    );
    on.on::<MigratePerform3Params>(
        Needs::Write("virDomainMigratePerform3Params"),
        |caller, args| {
            let PerformParamsArgs {
                domain,
                destination,
                params,
                cookie,
                flags,
            } = args;
            let request = read("qemuDomainMigratePerform3Params", flags.into(), &params)?;
            let guest = guest(caller, &domain)?;
            Migrations::perform(caller, guest, destination.as_deref(), request, &cookie.0)
        },
    );
    on.on::<MigrateFinish3Params>(
        Needs::Write("virDomainMigrateFinish3Params"),
        |caller, args| {
            let FinishParamsArgs {
                params,
                cookie,
                flags,
                cancelled,
            } = args;
            let request = read_there("qemuDomainMigrateFinish3Params", flags.into(), &params)?;
            Migrations::finish(caller, &request, &cookie.0, cancelled != 0)
        },
    );
    on.on::<MigrateConfirm3Params>(
        Needs::Write("virDomainMigrateConfirm3Params"),
        |caller, args| {
            let ConfirmParamsArgs {
                domain,
                params,
                cookie,
                flags,
                cancelled,
            } = args;
            read("qemuDomainMigrateConfirm3Params", flags.into(), &params)?;
            Migrations::confirm(caller, &guest(caller, &domain)?, &cookie.0, cancelled != 0)
        },
    );
    with_fields(on);
    jobs(on);
}

/// The same, with a field for each parameter.
fn with_fields(on: &mut Dispatcher) {
    on.on::<MigrateBegin3>(Needs::Write("virDomainMigrateBegin3"), |caller, args| {
        let BeginArgs {
            domain,
            xml,
            flags,
            name,
            bandwidth,
        } = args;
        let params = fields(xml, None, name, bandwidth);
        let request = read("qemuDomainMigrateBegin3", flags, &params)?;
        Migrations::begin(caller, guest(caller, &domain)?, request)
    });
    on.on::<MigratePrepare3>(Needs::Write("virDomainMigratePrepare3"), |caller, args| {
        let PrepareArgs {
            cookie,
            uri,
            flags,
            name,
            bandwidth,
            xml,
        } = args;
        let params = fields(Some(xml), uri, name, bandwidth);
        let request = read_there("qemuDomainMigratePrepare3", flags, &params)?;
        Migrations::prepare(caller, &request, &cookie.0)
    });
    on.on::<MigratePerform3>(Needs::Write("virDomainMigratePerform3"), |caller, args| {
        let PerformArgs {
            domain,
            xml,
            cookie,
            destination,
            uri,
            flags,
            name,
            bandwidth,
        } = args;
        let params = fields(xml, uri, name, bandwidth);
        let request = read("qemuDomainMigratePerform3", flags, &params)?;
        let guest = guest(caller, &domain)?;
        Migrations::perform(caller, guest, destination.as_deref(), request, &cookie.0)
    });
    on.on::<MigrateFinish3>(Needs::Write("virDomainMigrateFinish3"), |caller, args| {
        let FinishArgs {
            name,
            cookie,
            flags,
            cancelled,
            ..
        } = args;
        let params = fields(None, None, Some(name), 0);
        let request = read_there("qemuDomainMigrateFinish3", flags, &params)?;
        Migrations::finish(caller, &request, &cookie.0, cancelled != 0)
    });
    on.on::<MigrateConfirm3>(Needs::Write("virDomainMigrateConfirm3"), |caller, args| {
        let ConfirmArgs {
            domain,
            cookie,
            flags,
            cancelled,
        } = args;
        read("qemuDomainMigrateConfirm3", flags, &[])?;
        Migrations::confirm(caller, &guest(caller, &domain)?, &cookie.0, cancelled != 0)
    });
}

fn fields(
    xml: Option<String>,
    uri: Option<String>,
    name: Option<String>,
    bandwidth: u64,
) -> Vec<TypedParam> {
    let texts = [
        (Param::DESTINATION_XML.name, xml),
        (Param::MIGRATE_URI.name, uri),
        (Param::DESTINATION_NAME.name, name),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, text)| Some(TypedParam::new(name, text?)));
    let mut all: Vec<_> = texts.collect();
    if bandwidth > 0 {
        all.push(TypedParam::new(Param::BANDWIDTH.name, bandwidth));
    }
    all
}

fn read(function: &str, flags: u64, params: &[TypedParam]) -> Answer<Request> {
    Request::read(Driver::Qemu, function, flags, params)
}

fn read_there(function: &str, flags: u64, params: &[TypedParam]) -> Answer<Request> {
    Request::read_on_target(Driver::Qemu, function, flags, params)
}

/// The guest that a client means: only the UUID counts.
fn guest(caller: Caller<'_>, domain: &Domain) -> Answer<Arc<Guest>> {
    caller
        .daemon
        .guests()
        .by_uuid(domain.uuid, Some(&domain.name))
}

fn jobs(on: &mut Dispatcher) {
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
        let keep = args.flags & STATS_KEEP_COMPLETED != 0;
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
    let aborted = lock(&outgoing.machine).abort();
    let actions = aborted.map_err(|refusal| refusal.error(&name))?;
    settle::act(caller.daemon, &outgoing, actions, false);
    Ok(())
}

/// A person lets a guest run on that is held, or may not.
///
/// # Errors
/// When the guest has been sent, and its target may have it.
pub(crate) fn may_resume(caller: Caller<'_>, guest: &Guest) -> Answer<bool> {
    let Some(outgoing) = caller.daemon.migrations().outgoing(guest.uuid()) else {
        return Ok(true);
    };
    let mut machine = lock(&outgoing.machine);
    if machine.may_run() {
        return Ok(true);
    }
    let decided = machine.decided_to_stay();
    let still = *machine;
    drop(machine);
    let name = guest.inner().name.clone();
    let actions = decided.map_err(|refusal| refusal.error(&name))?;
    debug_assert!(still == Source::Idle, "{still:?}");
    settle::act(caller.daemon, &outgoing, actions, true);
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_v3::flags::Flags;

    #[test]
    fn fields_are_parameters() {
        let params = fields(Some("x".into()), None, Some("n".into()), 7);
        let names: Vec<_> = params.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["destination_xml", "destination_name", "bandwidth"]);
        assert!(read("f", u64::from(Flags::LIVE.bits()), &params).is_ok());
    }
}
