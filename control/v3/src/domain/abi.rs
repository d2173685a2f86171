//! Whether two descriptions are the same machine to the guest inside.
//!
//! A guest that is moved does not notice; a device that changes under it is a fault that nobody finds.
//! What the host does for a device (paths, bridges, files of serial lines) may differ.

use std::fmt::{Debug, Display};

use super::device::{Devices, DiskBus};
use super::{Address, Domain, DomainError};

/// Refuses a description that is another machine than the source's.
///
/// # Errors
///
/// [`DomainError::Unsupported`] with all differences in one sentence, each in libvirt's words.
pub fn check_abi(source: &Domain, target: &Domain) -> Result<(), DomainError> {
    let found = differences(source, target);
    if found.is_empty() {
        Ok(())
    } else {
        Err(DomainError::Unsupported(found.join("; ")))
    }
}

/// All in which a target's description differs from the source's, for the guest.
#[must_use]
pub fn differences(source: &Domain, target: &Domain) -> Vec<String> {
    let mut found = Differences(Vec::new());
    found.of("domain virt type", source.virt, target.virt);
    found.of("domain uuid", source.uuid, target.uuid);
    found.quoted("domain name", &source.name, &target.name);
    found.of("domain max memory", source.memory, target.memory);
    found.of("domain vCPU max", source.vcpus, target.vcpus);
    found.of(
        "domain machine type",
        &source.os.machine,
        &target.os.machine,
    );
    found.parts("domain features", &source.features, &target.features);
    found.of(
        "domain clock offset",
        source.clock.offset,
        target.clock.offset,
    );
    found.parts("domain timers", &source.clock.timers, &target.clock.timers);
    found.cpu(source, target);
    found.devices(&source.devices, &target.devices);
    found.0
}

struct Differences(Vec<String>);

impl Differences {
    fn of<T: PartialEq + Display>(&mut self, what: &str, source: T, target: T) {
        if source != target {
            self.0.push(format!(
                "Target {what} {target} does not match source {source}"
            ));
        }
    }

    fn quoted(&mut self, what: &str, source: &str, target: &str) {
        self.of(
            what,
            format_args!("'{source}'").to_string(),
            format!("'{target}'"),
        );
    }

    /// For what has no short form: that it differs.
    fn parts<T: PartialEq>(&mut self, what: &str, source: &T, target: &T) {
        if source != target {
            self.0.push(format!("Target {what} do not match source"));
        }
    }

    fn option<T: PartialEq + Debug>(&mut self, what: &str, source: &Option<T>, target: &Option<T>) {
        let show = |value: &Option<T>| {
            value
                .as_ref()
                .map_or_else(|| "none".into(), |v| format!("{v:?}"))
        };
        self.of(what, show(source), show(target));
    }

    fn cpu(&mut self, source: &Domain, target: &Domain) {
        let (s, t) = (&source.cpu, &target.cpu);
        self.of("CPU mode", s.mode, t.mode);
        let name = |cpu: &super::Cpu| {
            cpu.model
                .as_ref()
                .map(|m| m.name.clone())
                .unwrap_or_default()
        };
        self.of("CPU model", name(s), name(t));
        self.option("CPU topology", &s.topology, &t.topology);
        let features = |cpu: &super::Cpu| {
            let mut all: Vec<_> = cpu
                .features
                .iter()
                .map(|f| (f.name.clone(), f.policy.word()))
                .collect();
            all.sort();
            all
        };
        self.parts("CPU features", &features(s), &features(t));
    }

    /// Compares the number of devices of a kind, and then each with its counterpart.
    fn each<T>(
        &mut self,
        kind: &str,
        source: &[T],
        target: &[T],
        mut each: impl FnMut(&mut Self, &T, &T),
    ) {
        if source.len() == target.len() {
            for (s, t) in source.iter().zip(target) {
                each(self, s, t);
            }
        } else {
            let what = format!("domain {kind} count");
            self.of(&what, source.len(), target.len());
        }
    }

    fn address(&mut self, kind: &str, source: &Option<Address>, target: &Option<Address>) {
        if source != target {
            self.parts(&format!("{kind} addresses"), source, target);
        }
    }

    fn devices(&mut self, source: &Devices, target: &Devices) {
        self.each("disk", &source.disks, &target.disks, |d, s, t| {
            d.of("disk device", s.device, t.device);
            d.of("disk bus", s.bus, t.bus);
            d.of("disk", &s.target, &t.target);
            d.option("disk serial", &s.serial, &t.serial);
            d.of("disk access mode readonly", s.readonly, t.readonly);
            // A disk of another name on another bus has another place: that is said already.
            if s.bus == t.bus && (s.target == t.target || s.bus == DiskBus::Virtio) {
                d.address("disk", &s.address, &t.address);
            }
        });
        self.each(
            "controller",
            &source.controllers,
            &target.controllers,
            |d, s, t| {
                d.of("controller type", s.kind, t.kind);
                d.of("controller index", s.index, t.index);
                d.option("controller model", &s.model, &t.model);
                d.option("controller ports", &s.ports, &t.ports);
                d.option("controller target", &s.target, &t.target);
                d.address("controller", &s.address, &t.address);
            },
        );
        self.each(
            "net card",
            &source.interfaces,
            &target.interfaces,
            |d, s, t| {
                d.of("network card mac", s.mac, t.mac);
                d.of("network card model", s.model, t.model);
                d.option("network card mtu", &s.mtu, &t.mtu);
                d.address("network card", &s.address, &t.address);
            },
        );
        self.each(
            "serial port",
            &source.serials,
            &target.serials,
            |d, s, t| {
                d.option("serial port", &s.port, &t.port);
            },
        );
        self.each("channel", &source.channels, &target.channels, |d, s, t| {
            d.quoted("channel name", &s.name, &t.name);
            d.address("channel", &s.address, &t.address);
        });
        self.each("input device", &source.inputs, &target.inputs, |d, s, t| {
            d.of("input device type", s.kind, t.kind);
            d.of("input device bus", s.bus, t.bus);
            d.address("input device", &s.address, &t.address);
        });
        self.each("video card", &source.videos, &target.videos, |d, s, t| {
            d.of("video card model", s.kind, t.kind);
            d.option("video card vram", &s.vram, &t.vram);
            d.of("video card heads", s.heads, t.heads);
            d.address("video card", &s.address, &t.address);
        });
        self.each(
            "host device",
            &source.hostdevs,
            &target.hostdevs,
            |d, s, t| {
                d.address("host device", &s.address, &t.address);
            },
        );
        self.each(
            "watchdog",
            &source.watchdogs,
            &target.watchdogs,
            |d, s, t| {
                d.of("watchdog model", s.model, t.model);
                d.address("watchdog", &s.address, &t.address);
            },
        );
        let balloons = [source, target].map(|devices| devices.balloon.as_slice());
        self.each("memory balloon", balloons[0], balloons[1], |d, s, t| {
            d.option("balloon autodeflate", &s.autodeflate, &t.autodeflate);
            d.option(
                "balloon freePageReporting",
                &s.free_page_reporting,
                &t.free_page_reporting,
            );
            d.address("balloon", &s.address, &t.address);
        });
        self.each("RNG device", &source.rngs, &target.rngs, |d, s, t| {
            d.address("RNG", &s.address, &t.address);
        });
        let sockets = [source, target].map(|devices| devices.vsock.as_slice());
        self.each("vsock", sockets[0], sockets[1], |d, s, t| {
            d.option("vsock cid", &s.cid, &t.cid);
            d.address("vsock", &s.address, &t.address);
        });
    }
}
