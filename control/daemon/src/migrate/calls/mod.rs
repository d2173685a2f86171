//! The procedures of migrations and their jobs.

mod jobs;

pub(crate) use jobs::may_resume;

use std::sync::Arc;

use pagelift_rpc::calls::{
    BeginArgs, BeginParamsArgs, ConfirmArgs, ConfirmParamsArgs, FinishArgs, FinishParamsArgs,
    MigrateBegin3, MigrateBegin3Params, MigrateConfirm3, MigrateConfirm3Params, MigrateFinish3,
    MigrateFinish3Params, MigratePerform3, MigratePerform3Params, MigratePrepare3,
    MigratePrepare3Params, PerformArgs, PerformParamsArgs, PrepareArgs, PrepareParamsArgs,
};
use pagelift_rpc::params::TypedParam;
use pagelift_rpc::types::Domain;
use pagelift_v3::flags::Driver;
use pagelift_v3::params::{Param, Request};

use super::Migrations;
use crate::dispatch::{Answer, Caller, Dispatcher, Needs};
use crate::guests::Guest;

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
    jobs::add(on);
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
