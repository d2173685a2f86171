//! A text becomes a cookie, if it belongs to this migration.

use pagelift_rpc::error::{Error, ErrorCode};

use super::{Capability, Cookie, Extension, Feature, Identity, Nbd, Statistics};
use crate::domain::words::yes_no;
use crate::domain::{Cpu, Domain, Uuid};
use crate::flags::refused;
use crate::xml::{Element, Malformed};

/// The phase that a cookie arrives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// On the target, from Begin.
    Prepare,
    /// On the source, from Prepare.
    Perform,
    /// On the target, from Perform.
    Finish,
    /// On the source, from Finish.
    Confirm,
}

/// What is known where a cookie arrives.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The phase.
    pub phase: Phase,
    /// The guest's name on the source.
    pub name: &'a str,
    /// The guest's uuid.
    pub uuid: Uuid,
    /// The uuid of this host.
    pub own_host: Uuid,
    /// Whether only the definition moves.
    pub offline: bool,
}

pub(super) fn cookie(bytes: &[u8], arrival: &Arrival<'_>) -> Result<Option<Cookie>, Error> {
    if bytes.is_empty() {
        // A libvirtd 11.3 dies of an empty cookie in Prepare and Perform.
        let may_be = arrival.offline || matches!(arrival.phase, Phase::Finish | Phase::Confirm);
        return match may_be {
            true => Ok(None),
            false => Err(refused(
                ErrorCode::InvalidArgument,
                "migration cookie is empty",
            )),
        };
    }
    let Some((0, text)) = bytes.split_last() else {
        return Err(internal("Migration cookie was not NULL terminated"));
    };
    let syntax = |what: String| refused(ErrorCode::XmlDetail, what);
    let text = std::str::from_utf8(text)
        .map_err(|error| syntax(format!("migration cookie is no UTF-8: {error}")))?;
    let document = crate::xml::parse(text).map_err(|fault| syntax(fault.message()))?;
    let mut root = Element::root(&document);
    let identity = identity(&mut root)?;
    check_identity(&identity, arrival)?;
    let features = features(&mut root, arrival.phase)?;
    let mut domains = root.children("domain");
    if domains.len() > 1 {
        return Err(internal(format!(
            "Too many domain elements in migration cookie: {}",
            domains.len()
        )));
    }
    let persistent = match domains.pop() {
        Some(domain) => Some(Box::new(Domain::parse(domain.text_in(text))?)),
        None => None,
    };
    if let Some(mut lock) = root.child("lockstate").map_err(malformed)? {
        let driver = lock.attribute("driver").unwrap_or("none");
        if driver != "none" && driver != "nop" {
            return Err(internal(format!(
                "Source host lock driver {driver} different from target none"
            )));
        }
    }
    let cookie = optional(&mut root, Cookie::new(identity)).map_err(malformed)?;
    Ok(Some(Cookie {
        features,
        persistent,
        ..cookie
    }))
}

/// Adds what may be there or not.
fn optional(root: &mut Element<'_>, cookie: Cookie) -> Result<Cookie, Malformed> {
    let capabilities = root.child("capabilities")?.map(capabilities).transpose()?;
    Ok(Cookie {
        nbd: root.child("nbd")?.map(nbd).transpose()?,
        statistics: root
            .child("statistics")?
            .map(Statistics::read)
            .transpose()?,
        cpu: root.child("cpu")?.map(Cpu::read).transpose()?,
        capabilities: capabilities.unwrap_or_default(),
        extension: root.child("pagelift")?.map(Extension::read).transpose()?,
        ..cookie
    })
}

pub(super) fn number(bytes: &[u8]) -> Option<Uuid> {
    let document = crate::xml::parse(text_of(bytes)?).ok()?;
    let extension = Element::root(&document).child("pagelift").ok()??;
    Extension::read(extension).ok()?.id
}

pub(super) fn host(bytes: &[u8]) -> Option<Uuid> {
    let document = crate::xml::parse(text_of(bytes)?).ok()?;
    let host = Element::root(&document).text_of("hostuuid").ok()??;
    host.parse().ok()
}

fn text_of(bytes: &[u8]) -> Option<&str> {
    match bytes.split_last()? {
        (0, text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

fn identity(root: &mut Element<'_>) -> Result<Identity, Error> {
    // Only the names of elements matter, as to a libvirtd: a root of another name has none of them.
    let mut part = |name: &str| match root.text_of(name) {
        Ok(Some(text)) if !text.is_empty() => Ok(text),
        _ => Err(internal(format!(
            "missing {name} element in migration data"
        ))),
    };
    let name = part("name")?;
    let uuid = part("uuid")?;
    let hostname = part("hostname")?;
    let hostuuid = part("hostuuid")?;
    let read = |what: &str, text: String| -> Result<Uuid, Error> {
        text.parse()
            .map_err(|_| internal(format!("malformed {what} element in migration data")))
    };
    let uuid = read("uuid", uuid)?;
    Ok(Identity {
        name,
        uuid,
        hostname,
        hostuuid: read("hostuuid", hostuuid)?,
    })
}

fn check_identity(identity: &Identity, arrival: &Arrival<'_>) -> Result<(), Error> {
    let Identity {
        name,
        uuid,
        hostuuid,
        ..
    } = identity;
    if name != arrival.name {
        let expected = arrival.name;
        let what = format!("Incoming cookie data had unexpected name {name} vs {expected}");
        return Err(internal(what));
    }
    if *uuid != arrival.uuid {
        let expected = arrival.uuid;
        let what = format!("Incoming cookie data had unexpected UUID {uuid} vs {expected}");
        return Err(internal(what));
    }
    if *hostuuid == arrival.own_host {
        return Err(internal(format!(
            "Attempt to migrate guest to the same host {hostuuid}"
        )));
    }
    Ok(())
}

fn features(root: &mut Element<'_>, phase: Phase) -> Result<Vec<Feature>, Error> {
    let mut features = Vec::new();
    for mut element in root.children("feature") {
        let name = element.required("name").map_err(malformed)?;
        let feature = Feature::from_word(name)
            .ok_or_else(|| internal(format!("Unknown migration cookie feature {name}")))?;
        if !feature.is_taken_in(phase) {
            return Err(internal(format!(
                "Unsupported migration cookie feature {name}"
            )));
        }
        features.push(feature);
    }
    Ok(features)
}

fn nbd(mut element: Element<'_>) -> Result<Nbd, Malformed> {
    let port = element.read("port", |text| text.parse().ok().filter(|port| *port != 0))?;
    let mut disks = Vec::new();
    for mut disk in element.children("disk") {
        let target = disk.required("target")?.to_owned();
        disks.push((
            target,
            disk.read_required("capacity", |text| text.parse().ok())?,
        ));
    }
    Ok(Nbd { port, disks })
}

fn capabilities(mut element: Element<'_>) -> Result<Vec<Capability>, Malformed> {
    let mut capabilities = Vec::new();
    for mut cap in element.children("cap") {
        let name = cap.required("name")?.to_owned();
        capabilities.push(Capability {
            name,
            auto: cap.read_required("auto", yes_no)?,
        });
    }
    Ok(capabilities)
}

fn internal(detail: impl Into<String>) -> Error {
    refused(ErrorCode::InternalError, detail)
}

fn malformed(malformed: Malformed) -> Error {
    let detail = match malformed {
        Malformed::Unknown(path) => format!("{path} is not understood"),
        Malformed::Missing(path) => format!("{path} is missing"),
        Malformed::Invalid(path, value) => format!("invalid value '{value}' in {path}"),
        Malformed::Twice(path) => format!("{path} occurs multiple times"),
    };
    internal(format!("in migration data: {detail}"))
}
