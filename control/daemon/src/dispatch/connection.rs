//! Calls about the connection and the host.

use std::path::Path;

use pagelift_rpc::calls::{
    AuthList, Capabilities, Close, GetNodeInfo, Hostname, LibVersion, OPEN_READ_ONLY, Open,
    OpenArgs, RegisterCloseCallback, SupportsFeature, Type, UnregisterCloseCallback, Uri, Version,
    feature,
};
use pagelift_rpc::error::{Error, ErrorCode, ErrorDomain};

use super::{Answer, Caller, Dispatcher, Needs, not_open};
use crate::driver::qemu;
use crate::guests::errors;
use crate::host;

/// libvirt's version whose behaviour this is: what clients ask for the library's version.
const LIBRARY_VERSION: u64 = 11_003_000;

/// The one driver's URI.
const DRIVER_URI: &str = "qemu:///system";

pub(super) fn add(on: &mut Dispatcher) {
    on.on::<AuthList>(Needs::Connection, |_, ()| {
        Ok(vec![0].try_into().unwrap_or_default())
    });
    on.on::<SupportsFeature>(Needs::Connection, supports);
    on.on::<Open>(Needs::Connection, open);
    on.on::<Close>(Needs::Connection, |_, ()| Ok(()));
    on.on::<Type>(Needs::Open, |_, ()| Ok("QEMU".into()));
    on.on::<Version>(Needs::Open, hypervisor_version);
    on.on::<Capabilities>(Needs::Open, |caller, ()| Ok(capabilities(caller)));
    on.on::<LibVersion>(Needs::Open, |_, ()| Ok(LIBRARY_VERSION));
    on.on::<Hostname>(Needs::Open, |caller, ()| {
        Ok(caller.daemon.host().name.clone())
    });
    on.on::<Uri>(Needs::Open, |_, ()| Ok(DRIVER_URI.into()));
    on.on::<GetNodeInfo>(Needs::Open, |_, ()| Ok(host::node_info()));
    on.on::<RegisterCloseCallback>(Needs::Open, |_, ()| Ok(()));
    on.on::<UnregisterCloseCallback>(Needs::Open, |_, ()| Ok(()));
}

/// Features of the protocol are answered to anybody, those of the driver once it is open.
fn supports(caller: Caller<'_>, number: i32) -> Answer<i32> {
    let of_the_protocol = matches!(number, feature::KEEPALIVE | feature::FD_PASSING);
    if !of_the_protocol && !caller.session.is_open() {
        return Err(not_open());
    }
    Ok(i32::from(matches!(
        number,
        feature::MIGRATION_P2P
            | feature::MIGRATION_V3
            | feature::CHANGE_PROTECTION
            | feature::MIGRATION_OFFLINE
            | feature::MIGRATION_PARAMS
            | feature::TYPED_PARAM_STRING
            | feature::KEEPALIVE
            | feature::XML_MIGRATABLE
            | feature::EVENT_CALLBACK
            | feature::CLOSE_CALLBACK
            | feature::NETWORK_UPDATE_ORDER
    )))
}

fn hypervisor_version(caller: Caller<'_>, (): ()) -> Answer<u64> {
    let emulator = caller.daemon.config().qemu.emulator.display().to_string();
    let version = qemu::version(&emulator);
    version.ok_or_else(|| errors::internal(format!("{emulator} does not say its version")))
}

/// What the host and its guests can be.
fn capabilities(caller: Caller<'_>) -> String {
    let uuid = caller.daemon.host().uuid;
    let emulator = plain(&caller.daemon.config().qemu.emulator.display().to_string());
    let kvm = if Path::new("/dev/kvm").exists() {
        "      <domain type='kvm'/>\n"
    } else {
        ""
    };
    format!(
        "<capabilities>\n\n  <host>\n    <uuid>{uuid}</uuid>\n    <cpu>\n      <arch>x86_64</arch>\n    </cpu>\n  </host>\n\n  <guest>\n    <os_type>hvm</os_type>\n    <arch name='x86_64'>\n      \
         <wordsize>64</wordsize>\n      <emulator>{emulator}</emulator>\n      \
         <domain type='qemu'/>\n{kvm}    </arch>\n  </guest>\n\n</capabilities>\n"
    )
}

/// A text as XML has it.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn open(caller: Caller<'_>, args: OpenArgs) -> Answer<()> {
    let internal = |detail| {
        Err(Error::new(
            ErrorCode::InternalError,
            ErrorDomain::Rpc,
            detail,
        ))
    };
    let Some(name) = args.name else {
        return internal("connection not open");
    };
    if caller.session.is_open() {
        return internal("connection already open");
    }
    if !is_ours(&name) {
        return Err(Error::new(ErrorCode::NoConnect, ErrorDomain::None, name));
    }
    if !caller.session.open(args.flags & OPEN_READ_ONLY != 0) {
        return internal("connection already open");
    }
    Ok(())
}

/// Whether the URI is the driver's: `qemu:///system`, or `/session`, which is the same daemon here.
fn is_ours(uri: &str) -> bool {
    let Some(path) = uri.strip_prefix("qemu://") else {
        return false;
    };
    let path = path.split('?').next().unwrap_or(path);
    matches!(path, "/system" | "/session")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        for (uri, ours) in [
            ("qemu:///system", true),
            ("qemu:///session", true),
            ("qemu:///system?no_verify=1", true),
            ("qemu:///embed", false),
            ("qemu+tcp:///system", false),
            ("foo:///xx", false),
            ("", false),
        ] {
            assert_eq!(is_ours(uri), ours, "{uri}");
        }
    }
}
