//! Calls about the life of guests.

use std::sync::Arc;

use pagelift_rpc::calls::{
    AutostartArgs, DomainCreate, DomainCreateWithFlags, DomainCreateXml, DomainDefineXml,
    DomainDefineXmlFlags, DomainDestroy, DomainDestroyFlags, DomainFlagsArgs, DomainGetAutostart,
    DomainGetAutostartOnce, DomainGetInfo, DomainGetMessages, DomainGetOsType,
    DomainGetSecurityLabel, DomainGetState, DomainGetXmlDesc, DomainHasManagedSave, DomainInfo,
    DomainIsActive, DomainIsPersistent, DomainLookupById, DomainLookupByName, DomainLookupByUuid,
    DomainResume, DomainSetAutostart, DomainShutdown, DomainShutdownFlags, DomainSnapshotNum,
    DomainState, DomainSuspend, DomainUndefine, DomainUndefineFlags, ListAllDomains,
    ListAllDomainsArgs, ListAllDomainsReply, NodeSecurityModel, SecurityLabel, SecurityModel,
    XmlFlagsArgs,
};
use pagelift_rpc::error::{Error, ErrorDomain};
use pagelift_rpc::types::Domain;
use pagelift_rpc::xdr::{Chars, List};
use pagelift_v3::domain::Flavour;

use super::{Answer, Caller, Dispatcher, Needs};
use crate::guests::{Guest, StartFlags, errors};

/// Flags of starting: paused; ended with the connection; two about saved states, which there are none of.
const START_PAUSED: u32 = 1;
const START_AUTODESTROY: u32 = 2;
const START_KNOWN: u32 = 0xf;

/// Flags of a description: with secrets (there are none), the definition, fit for another host.
const XML_INACTIVE: u32 = 2;
const XML_MIGRATABLE: u32 = 8;
const XML_KNOWN: u32 = 0xf;

pub(super) fn add(on: &mut Dispatcher) {
    let read = Needs::Open;
    on.on::<ListAllDomains>(read, list);
    on.on::<DomainLookupById>(read, |caller, id| {
        Ok(caller.daemon.guests().by_id(id)?.wire())
    });
    on.on::<DomainLookupByName>(read, |caller, name| {
        Ok(caller.daemon.guests().by_name(&name)?.wire())
    });
    on.on::<DomainLookupByUuid>(read, |caller, uuid| {
        Ok(caller.daemon.guests().by_uuid(uuid, None)?.wire())
    });
    on.on::<DomainGetState>(read, |caller, args| {
        check_flags(args.flags, 0, "qemuDomainGetState")?;
        let (state, reason) = guest(caller, &args.domain)?.inner().state;
        Ok(DomainState { state, reason })
    });
    on.on::<DomainGetInfo>(read, info);
    on.on::<DomainGetXmlDesc>(read, describe);
    on.on::<DomainGetOsType>(read, |caller, domain| {
        guest(caller, &domain).map(|_| "hvm".into())
    });
    on.on::<DomainIsActive>(read, |caller, domain| {
        Ok(guest(caller, &domain)?.inner().active.is_some().into())
    });
    on.on::<DomainIsPersistent>(read, |caller, domain| {
        Ok(guest(caller, &domain)?.inner().definition.is_some().into())
    });
    on.on::<DomainGetAutostart>(read, |caller, domain| {
        Ok(guest(caller, &domain)?.inner().autostart.into())
    });
    on.on::<DomainGetAutostartOnce>(read, |caller, domain| guest(caller, &domain).map(|_| 0));
    on.on::<DomainHasManagedSave>(read, |caller, args| guest(caller, &args.domain).map(|_| 0));
    on.on::<DomainSnapshotNum>(read, |caller, args| guest(caller, &args.domain).map(|_| 0));
    on.on::<DomainGetMessages>(read, messages);
    on.on::<NodeSecurityModel>(read, |_, ()| {
        let model = Chars(b"none\0".to_vec());
        let doi = Chars(b"0\0".to_vec());
        Ok(SecurityModel { model, doi })
    });
    on.on::<DomainGetSecurityLabel>(read, |caller, domain| {
        let label = Chars(b"\0".to_vec());
        guest(caller, &domain).map(|_| SecurityLabel {
            label,
            enforcing: 0,
        })
    });
    changes(on);
}

fn changes(on: &mut Dispatcher) {
    on.on::<DomainDefineXml>(Needs::Write("virDomainDefineXML"), |caller, xml| {
        define(caller, &xml)
    });
    on.on::<DomainDefineXmlFlags>(Needs::Write("virDomainDefineXMLFlags"), |caller, args| {
        // Validation (1): what is not known is refused anyhow.
        check_flags(args.flags, 1, "qemuDomainDefineXMLFlags")?;
        define(caller, &args.xml)
    });
    on.on::<DomainUndefine>(Needs::Write("virDomainUndefine"), |caller, domain| {
        caller.daemon.guests().undefine(&guest(caller, &domain)?)
    });
    on.on::<DomainUndefineFlags>(Needs::Write("virDomainUndefineFlags"), |caller, args| {
        // What else is to be removed, or kept: there is none of it.
        check_flags(args.flags, 0x7f, "qemuDomainUndefineFlags")?;
        caller
            .daemon
            .guests()
            .undefine(&guest(caller, &args.domain)?)
    });
    on.on::<DomainCreate>(Needs::Write("virDomainCreate"), |caller, domain| {
        let guest = guest(caller, &domain)?;
        caller.daemon.guests().start(&guest, StartFlags::default())
    });
    on.on::<DomainCreateWithFlags>(Needs::Write("virDomainCreateWithFlags"), |caller, args| {
        let flags = start_flags(args.flags, "qemuDomainCreateWithFlags")?;
        let guest = guest(caller, &args.domain)?;
        caller.daemon.guests().start(&guest, flags)?;
        Ok(started(caller, &guest, args.flags))
    });
    on.on::<DomainCreateXml>(Needs::Write("virDomainCreateXML"), |caller, args| {
        let XmlFlagsArgs { xml, flags } = args;
        let start = start_flags(flags, "qemuDomainCreateXML")?;
        let guests = caller.daemon.guests();
        let guest = guests.create(guests.describe(&xml)?, start)?;
        Ok(started(caller, &guest, flags))
    });
    on.on::<DomainDestroy>(Needs::Write("virDomainDestroy"), |caller, domain| {
        caller.daemon.guests().destroy(&guest(caller, &domain)?)
    });
    on.on::<DomainDestroyFlags>(Needs::Write("virDomainDestroyFlags"), |caller, args| {
        check_flags(args.flags, 0, "qemuDomainDestroyFlags")?;
        caller
            .daemon
            .guests()
            .destroy(&guest(caller, &args.domain)?)
    });
    on.on::<DomainShutdown>(Needs::Write("virDomainShutdown"), |caller, domain| {
        guest(caller, &domain)?.shut_down()
    });
    on.on::<DomainShutdownFlags>(Needs::Write("virDomainShutdownFlags"), |caller, args| {
        // By ACPI (1), which is how it is done.
        check_flags(args.flags, 1, "qemuDomainShutdownFlags")?;
        guest(caller, &args.domain)?.shut_down()
    });
    on.on::<DomainSuspend>(Needs::Write("virDomainSuspend"), |caller, domain| {
        guest(caller, &domain)?.suspend()
    });
    on.on::<DomainResume>(Needs::Write("virDomainResume"), |caller, domain| {
        let guest = guest(caller, &domain)?;
        let job = guest.begin("remoteDispatchDomainResume")?;
        // A guest that is held because its target is silent stays by a person's decision.
        match crate::migrate::calls::may_resume(caller, &guest)? {
            true => guest.resume(&job),
            false => Ok(()),
        }
    });
    on.on::<DomainSetAutostart>(Needs::Write("virDomainSetAutostart"), set_autostart);
}

/// The guest that a client means: only the UUID counts.
fn guest(caller: Caller<'_>, domain: &Domain) -> Answer<Arc<Guest>> {
    let Domain { uuid, name, .. } = domain;
    caller.daemon.guests().by_uuid(*uuid, Some(name))
}

fn check_flags(flags: u32, known: u32, function: &str) -> Answer<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => {
            let unknown = unknown.into();
            Err(Error::unsupported_flags(
                ErrorDomain::Qemu,
                function,
                unknown,
            ))
        }
    }
}

fn start_flags(flags: u32, function: &str) -> Answer<StartFlags> {
    check_flags(flags, START_KNOWN, function)?;
    let paused = flags & START_PAUSED != 0;
    Ok(StartFlags { paused })
}

/// A guest was started; it may be bound to the connection.
fn started(caller: Caller<'_>, guest: &Arc<Guest>, flags: u32) -> Domain {
    let wire = guest.wire();
    if flags & START_AUTODESTROY != 0 {
        let (daemon, guest, id) = (Arc::clone(caller.daemon), Arc::clone(guest), wire.id);
        caller.session.on_close(move || {
            if guest.wire().id == id {
                let _has_ended = daemon.guests().destroy(&guest);
            }
        });
    }
    wire
}

fn list(caller: Caller<'_>, args: ListAllDomainsArgs) -> Answer<ListAllDomainsReply> {
    let guests = caller.daemon.guests().list(args.flags);
    let count = u32::try_from(guests.len()).unwrap_or(u32::MAX);
    let domains: Vec<Domain> = match args.need_results {
        0 => Vec::new(),
        _ => guests.iter().map(|guest| guest.wire()).collect(),
    };
    let domains: List<_, 16384> = domains.try_into().map_err(errors::internal)?;
    Ok(ListAllDomainsReply { domains, count })
}

fn info(caller: Caller<'_>, domain: Domain) -> Answer<DomainInfo> {
    let guest = guest(caller, &domain)?;
    let inner = guest.inner();
    let current = inner.current().ok_or_else(errors::not_running)?;
    Ok(DomainInfo {
        state: inner.state.0.cast_unsigned(),
        max_memory: current.memory.0,
        memory: current.current_memory.0,
        vcpus: current.vcpus,
        cpu_time: inner.qemu().map_or(0, |qemu| qemu.cpu_time_ns()),
    })
}

fn describe(caller: Caller<'_>, args: DomainFlagsArgs) -> Answer<String> {
    check_flags(args.flags, XML_KNOWN, "qemuDomainGetXMLDesc")?;
    let guest = guest(caller, &args.domain)?;
    let inner = guest.inner();
    let wants_definition = args.flags & XML_INACTIVE != 0;
    let definition = inner.definition.as_ref().filter(|_| wants_definition);
    let domain = definition
        .or_else(|| inner.current())
        .ok_or_else(errors::not_running)?;
    let flavour = if args.flags & XML_MIGRATABLE != 0 {
        Flavour::Migratable
    } else if wants_definition {
        Flavour::Inactive
    } else {
        Flavour::Live
    };
    Ok(domain.to_xml(flavour))
}

fn messages(caller: Caller<'_>, args: DomainFlagsArgs) -> Answer<List<String, 2048>> {
    let guest = guest(caller, &args.domain)?;
    // QEMU runs as the daemon's user.
    let as_root = guest.inner().active.is_some() && rustix::process::geteuid().is_root();
    let tainted = "tainted: running with undesirable elevated privileges".to_owned();
    let messages = as_root.then_some(tainted).into_iter().collect::<Vec<_>>();
    messages.try_into().map_err(errors::internal)
}

fn define(caller: Caller<'_>, xml: &str) -> Answer<Domain> {
    let guests = caller.daemon.guests();
    Ok(guests.define_for_client(guests.describe(xml)?)?.wire())
}

fn set_autostart(caller: Caller<'_>, args: AutostartArgs) -> Answer<()> {
    let guest = guest(caller, &args.domain)?;
    let _job = guest.begin("remoteDispatchDomainSetAutostart")?;
    let mut inner = guest.inner();
    if inner.definition.is_none() {
        return Err(errors::invalid("cannot set autostart for transient domain"));
    }
    inner.autostart = args.autostart != 0;
    guest.save(&inner)
}
