//! What a migration needs on the source: looked at in Begin, before anything is done.

use pagelift_rpc::calls::state;
use pagelift_rpc::error::Error;
use pagelift_rpc::types::Uuid;
use pagelift_v3::cookie::{Capability, Cookie, Engine, Extension, Feature, Identity};
use pagelift_v3::domain::{Domain, check_abi};
use pagelift_v3::flags::Flags;
use pagelift_v3::params::{Param, Request};
use pagelift_v3::safety::{self, Facts, Risk};

use crate::daemon::Daemon;
use crate::dispatch::Answer;
use crate::driver::qemu::native;
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

/// What is known of it.
#[derive(Clone, Debug)]
pub(in crate::migrate) struct Plan {
    /// The number of the migration.
    pub(in crate::migrate) id: Uuid,
    /// What was asked for in Begin.
    pub(in crate::migrate) request: Request,
    /// The guest's name here.
    pub(in crate::migrate) name: String,
    /// The guest for the target.
    pub(in crate::migrate) domain: Domain,
    /// What the target is to define.
    pub(in crate::migrate) persistent: Option<Domain>,
    /// The guest's state before it was sent.
    pub(in crate::migrate) before: (i32, i32),
    /// Where the target can be asked.
    pub(in crate::migrate) ask: Option<String>,
    /// Whether the target is known to be a daemon like this one: its word can be had, and counts alone.
    pub(in crate::migrate) alike: bool,
    /// When the guest was stopped, in ms since 1970.
    pub(in crate::migrate) stopped_ms: u64,
}

impl Plan {
    /// The guest's name on the target.
    pub(in crate::migrate) fn name_there(&self) -> &str {
        let renamed = self.request.options.get(Param::DESTINATION_NAME);
        renamed.unwrap_or(&self.name)
    }

    /// Looks at everything that a migration needs on this side.
    pub(in crate::migrate) fn new(
        daemon: &Daemon,
        guest: &Guest,
        request: Request,
    ) -> Answer<(Self, Cookie)> {
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
            // There is no way to make one here.
            snapshots: 0,
            blockers: match &qemu {
                Some(qemu) if !offline => native::progress(qemu.qmp()).map_err(monitor)?.blockers(),
                _ => Vec::new(),
            },
            unshared_disks: unshared(daemon, &current),
            io_error: before == state::PAUSED_IO_ERROR,
            block_job: match &qemu {
                Some(qemu) if !offline => native::has_block_job(qemu.qmp()).map_err(monitor)?,
                _ => false,
            },
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
            alike: false,
            stopped_ms: 0,
        };
        Ok((plan, cookie))
    }
}

/// A cookie of this host, about a guest.
pub(in crate::migrate) fn cookie(daemon: &Daemon, name: &str, uuid: Uuid) -> Cookie {
    let host = daemon.host();
    Cookie::new(Identity {
        name: name.to_owned(),
        uuid,
        hostname: host.name.clone(),
        hostuuid: host.uuid,
    })
}

/// What the other side is told of a QEMU that has these capabilities.
pub(in crate::migrate) fn told(has: &[String]) -> Vec<Capability> {
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

pub(in crate::migrate) fn monitor(error: pagelift_control::qmp::QmpError) -> Error {
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
