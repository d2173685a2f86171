//! All phases by the source's daemon, and its question to a target what has become of the guest.

use std::sync::Arc;

use pagelift_rpc::calls::{
    DomainLookupByUuid, FinishParamsArgs, MigrateFinish3Params, MigratePrepare3Params,
    PrepareParamsArgs, feature,
};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};
use pagelift_rpc::params::{Params, TypedParam};
use pagelift_rpc::types::{NO_ID, Uuid};
use pagelift_rpc::xdr::Opaque;
use pagelift_v3::cookie::Extension;
use pagelift_v3::domain::Flavour;
use pagelift_v3::flags::Flags;
use pagelift_v3::params::{MigrateUri, Options, Param, Request};
use pagelift_v3::phase::{Answer as Word, Mode};

use super::client::Connection;
use super::source::{Outgoing, Plan, cookie};
use super::{lock, settle};
use crate::daemon::Daemon;
use crate::dispatch::Answer;
use crate::guests::Guest;

fn refused(code: ErrorCode, detail: impl Into<String>) -> Error {
    Error::new(code, ErrorDomain::Qemu, detail)
}

fn params(options: &Options) -> Params {
    // There were at most 63, or the client's call would not have been read.
    options.as_slice().to_vec().try_into().unwrap_or_default()
}

/// Moves a guest to the daemon at `destination`.
pub(super) fn migrate(
    daemon: &Arc<Daemon>,
    guest: Arc<Guest>,
    destination: &str,
    request: Request,
) -> Answer<()> {
    let flags = request.flags.without(Flags::CHANGE_PROTECTION);
    let offline = flags.has(Flags::OFFLINE);
    let (mut plan, cookie_a) = Plan::new(daemon, &guest, request.clone())?;
    plan.ask = Some(destination.to_owned());
    let paused = plan.before.0 == pagelift_rpc::calls::state::PAUSED_USER.0;
    let xml = plan.domain.to_xml(Flavour::Migratable);
    let name = plan.name.clone();
    let outgoing = Outgoing::bind(daemon, guest, plan, |machine| {
        machine.begin(Mode::PeerToPeer, offline)
    })?;
    let gives_up = |error: Error| {
        // The guest was not sent: it goes on as it was.
        let actions = outgoing
            .step(|machine| machine.confirm(true))
            .unwrap_or_default();
        settle::act(daemon, &outgoing, actions, true);
        error
    };
    let target = connect(destination, offline).map_err(gives_up)?;
    let mut options = request.options.clone();
    options.set(Param::DESTINATION_XML, xml.as_str());
    options.remove(Param::PERSISTENT_XML);
    let told = if paused { flags | Flags::PAUSED } else { flags }.for_target();
    let prepared = target.call::<MigratePrepare3Params>(&PrepareParamsArgs {
        params: params(&options),
        cookie: Opaque(cookie_a.encode()),
        flags: told.bits(),
    });
    let prepared = prepared.map_err(gives_up)?;
    if let Some(uri) = prepared.uri.as_deref().filter(|_| !offline) {
        options.set(Param::MIGRATE_URI, uri);
    }
    let name_there = request
        .options
        .get(Param::DESTINATION_NAME)
        .unwrap_or(&name)
        .to_owned();
    let finish = |options: &Options, c: Vec<u8>, cancelled: bool| {
        let mut options = options.clone();
        options.set(Param::DESTINATION_NAME, name_there.as_str());
        target.call::<MigrateFinish3Params>(&FinishParamsArgs {
            params: params(&options),
            cookie: Opaque(c),
            flags: told.bits(),
            cancelled: cancelled.into(),
        })
    };
    let mut c = Vec::new();
    if !offline {
        match perform(
            daemon,
            &outgoing,
            &options,
            &request,
            &prepared.cookie.0,
            &target,
        ) {
            Ok(cookie) => c = cookie,
            Err(error) => {
                let there = finish(&options, Vec::new(), true).err();
                return Err(combined(error, there));
            }
        }
    }
    match finish(&options, c, false) {
        Ok(reply) => outgoing.confirm(daemon, &reply.cookie.0, false),
        Err(error) => {
            outgoing.confirm(daemon, &[], true)?;
            Err(error)
        }
    }
}

/// Connects to a daemon that takes guests from daemons.
fn connect(destination: &str, offline: bool) -> Answer<Connection> {
    let target = Connection::open(destination)?;
    let takes = target.has(feature::MIGRATION_P2P)?;
    let (v3, with_params) = (
        target.has(feature::MIGRATION_V3)?,
        target.has(feature::MIGRATION_PARAMS)?,
    );
    if !takes {
        let detail = "Destination libvirt does not support peer-to-peer migration protocol";
        return Err(refused(ErrorCode::OperationFailed, detail));
    }
    if !v3 || !with_params {
        let detail = "the destination does not take typed parameters";
        return Err(refused(ErrorCode::OperationFailed, detail));
    }
    if offline && !target.has(feature::MIGRATION_OFFLINE)? {
        let detail = "offline migration is not supported by the destination host";
        return Err(refused(ErrorCode::ArgumentUnsupported, detail));
    }
    Ok(target)
}

/// Perform, as long as the target's daemon is there.
fn perform(
    daemon: &Arc<Daemon>,
    outgoing: &Arc<Outgoing>,
    options: &Options,
    request: &Request,
    cookie_b: &[u8],
    target: &Connection,
) -> Answer<Vec<u8>> {
    let uri = options.get(Param::MIGRATE_URI);
    let uri = uri.ok_or_else(|| refused(ErrorCode::InternalError, "prepare did not set uri"));
    let performed = uri.and_then(MigrateUri::parse).and_then(|uri| {
        let refusal = outgoing.step(|machine| machine.perform(Mode::PeerToPeer, false));
        refusal.map_err(|refusal| refusal.error(&lock(&outgoing.plan).name))?;
        outgoing.transfer(daemon, &uri, request, cookie_b, &|| target.is_lost())
    });
    if performed.is_err() {
        let actions = outgoing
            .step(|machine| machine.confirm(true))
            .unwrap_or_default();
        settle::act(daemon, outgoing, actions, true);
    }
    performed.map(|cookie| cookie.encode())
}

/// What a user is told of a migration that both sides have something to say of.
fn combined(here: Error, there: Option<Error>) -> Error {
    let failed = |error: &Error| error.domain == ErrorDomain::Qemu;
    let told = there.filter(|there| failed(there) && there.code != ErrorCode::MigrateFinishOk);
    match told {
        Some(there) if failed(&here) && here.code == ErrorCode::OperationFailed => {
            let detail = format!(
                "migration failed. Message from the source host: {here}. Message from the destination host: {there}"
            );
            refused(ErrorCode::OperationFailed, detail)
        }
        _ => here,
    }
}

/// Asks a target what has become of the guest, by a Finish that is cancelled: a target that does not have
/// the guest yet drops it. `None` if there is no answer.
pub(super) fn ask(daemon: &Daemon, uri: &str, plan: &Plan, guest: Uuid) -> Option<Word> {
    let name = plan.name_there();
    let mut question = cookie(daemon, &plan.name, guest);
    question.extension = Some(Extension {
        id: Some(plan.id),
        ..Extension::default()
    });
    let target = Connection::open(uri);
    let asked = target.as_ref().map_err(Error::clone).and_then(|target| {
        target.call::<MigrateFinish3Params>(&FinishParamsArgs {
            params: vec![TypedParam::new(Param::DESTINATION_NAME.name, name)]
                .try_into()
                .unwrap_or_default(),
            cookie: Opaque(question.encode()),
            // How the guest was sent does not matter any more.
            flags: Flags::NONE.bits(),
            cancelled: 1,
        })
    });
    let error = asked.err()?;
    let word = match (error.code, error.domain) {
        (ErrorCode::MigrateFinishOk | ErrorCode::NoDomain, _) => Some(Word::Dropped),
        (ErrorCode::OperationInvalid, ErrorDomain::Qemu) if plan.alike => Some(Word::Runs),
        // A libvirtd says so of any guest of that name.
        (ErrorCode::OperationInvalid, ErrorDomain::Qemu) => {
            let there = target.and_then(|target| target.call::<DomainLookupByUuid>(&guest));
            there
                .is_ok_and(|there| there.id != NO_ID)
                .then_some(Word::Runs)
        }
        // A libvirtd whose QEMU had begun to take the guest in.
        (ErrorCode::OperationFailed, ErrorDomain::Qemu) => Some(Word::Dropped),
        _ => None,
    };
    tracing::info!(name, ?word, %error, "the target was asked what has become of a guest");
    word
}
