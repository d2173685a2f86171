//! A text becomes a description: the parts are read, completed and checked.

use super::*;
use crate::xml::{Element, Malformed};

/// The most virtual CPUs: what QEMU 10 takes for a q35 machine.
const VCPUS_MAX: u32 = 4096;

pub(super) fn domain(text: &str, fresh: Option<Uuid>) -> Result<Domain, DomainError> {
    let document = crate::xml::parse(text)?;
    let mut root = Element::root(&document);
    if root.name() != "domain" {
        return Err(DomainError::Xml(format!(
            "unexpected root element <{}>, expecting <domain>",
            root.name()
        )));
    }
    let mut domain = read(&mut root, fresh)?;
    root.finish()?;
    defaults::complete(&mut domain)?;
    check(&domain)?;
    Ok(domain)
}

fn read(root: &mut Element<'_>, fresh: Option<Uuid>) -> Result<Domain, Malformed> {
    let virt = root.read_required("type", Virt::from_word)?;
    // A number that the guest had elsewhere, or has no more, means nothing here.
    root.attribute("id");
    let missing = |what: &str| Malformed::Missing(format!("/domain/{what}"));
    let name = root.text_of("name")?.ok_or_else(|| missing("name"))?;
    let uuid = match root.text_of("uuid")? {
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| Malformed::Invalid("/domain/uuid".into(), text))?,
        None => fresh.ok_or_else(|| missing("uuid"))?,
    };
    let title = root.text_of("title")?;
    let description = root.text_of("description")?;
    let memory = KiB::read(root.child_required("memory")?)?;
    let current = root.child("currentMemory")?.map(KiB::read).transpose()?;
    let backing = root
        .child("memoryBacking")?
        .map(Backing::read)
        .transpose()?;
    let vcpus = read_vcpus(root)?;
    let os = Os::read(root.child_required("os")?)?;
    let features = root.child("features")?.map(Features::read).transpose()?;
    let cpu = root.child("cpu")?.map(Cpu::read).transpose()?;
    let clock = root.child("clock")?.map(Clock::read).transpose()?;
    let on_poweroff = read_lifecycle(root, "on_poweroff")?.unwrap_or(Lifecycle::Destroy);
    let on_reboot = read_lifecycle(root, "on_reboot")?.unwrap_or(Lifecycle::Restart);
    let on_crash = read_lifecycle(root, "on_crash")?.unwrap_or(Lifecycle::Destroy);
    let devices = root.child("devices")?.map(Devices::read).transpose()?;
    read_security_labels(root)?;
    Ok(Domain {
        virt,
        name,
        uuid,
        title,
        description,
        memory,
        current_memory: current.map_or(memory, |c| c.min(memory)),
        backing: backing.filter(|b| *b != Backing::default()),
        vcpus,
        os,
        features: features.unwrap_or_default(),
        cpu: cpu.unwrap_or_default(),
        clock: clock.unwrap_or_default(),
        on_poweroff,
        on_reboot,
        on_crash,
        devices: match devices {
            Some(devices) => devices,
            None => Devices {
                balloon: Some(device::Balloon::default()),
                ..Devices::default()
            },
        },
        command_line: CommandLine::read_of(root)?,
        live: None,
    })
}

fn read_vcpus(root: &mut Element<'_>) -> Result<u32, Malformed> {
    let Some(mut element) = root.child("vcpu")? else {
        return Ok(1);
    };
    if element
        .attribute("placement")
        .is_some_and(|placement| placement != "static")
    {
        return Err(element.unknown());
    }
    let text = element.text();
    let count = text
        .trim()
        .parse()
        .ok()
        .filter(|n| (1..=VCPUS_MAX).contains(n));
    let count = count.ok_or_else(|| element.invalid(text))?;
    element.finish()?;
    Ok(count)
}

fn read_lifecycle(root: &mut Element<'_>, name: &str) -> Result<Option<Lifecycle>, Malformed> {
    let Some(text) = root.text_of(name)? else {
        return Ok(None);
    };
    let action = Lifecycle::from_word(text.trim());
    action
        .map(Some)
        .ok_or_else(|| Malformed::Invalid(format!("/domain/{name}"), text))
}

/// Labels that a host makes anew for each run say nothing to another host; no label is also what is
/// done here. A label that is to be exactly so cannot be given, and is refused.
fn read_security_labels(root: &mut Element<'_>) -> Result<(), Malformed> {
    for mut label in root.children("seclabel") {
        if !matches!(label.attribute("type"), Some("none" | "dynamic")) {
            return Err(label.unknown());
        }
        label.attribute("model");
        label.attribute("relabel");
        label.text_of("label")?;
        label.text_of("imagelabel")?;
        label.finish()?;
    }
    Ok(())
}

fn check(domain: &Domain) -> Result<(), DomainError> {
    let name = &domain.name;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\n', '\0']) {
        return Err(DomainError::Xml(format!(
            "invalid name '{}'",
            name.escape_debug()
        )));
    }
    if domain.memory.0 == 0 {
        return Err(DomainError::Xml("the guest has no memory".into()));
    }
    if let Some(topology) = domain.cpu.topology
        && topology.vcpus() != u64::from(domain.vcpus)
    {
        return Err(DomainError::Unsupported(format!(
            "CPU topology of {} doesn't match the vCPU count of {}",
            topology.vcpus(),
            domain.vcpus
        )));
    }
    let disks = &domain.devices.disks;
    for (at, disk) in disks.iter().enumerate() {
        if disks[..at].iter().any(|other| other.target == disk.target) {
            return Err(DomainError::Xml(format!(
                "target '{}' duplicated",
                disk.target
            )));
        }
    }
    let twice =
        |what: &str, name: String| Err(DomainError::Xml(format!("{what} '{name}' duplicated")));
    let controllers = &domain.devices.controllers;
    for pair in controllers.windows(2) {
        if (pair[0].kind, pair[0].index) == (pair[1].kind, pair[1].index) {
            return twice("controller", pair[1].alias());
        }
    }
    let serials = &domain.devices.serials;
    for (at, serial) in serials.iter().enumerate() {
        if serials[..at].iter().any(|other| other.port == serial.port) {
            return twice("serial port", serial.alias());
        }
    }
    Ok(())
}
