//! What a description stands for beside what it says: libvirt's defaults for x86 machines.
//!
//! Both ends of a migration complete the same text, so these rules are a part of the guest ABI: what
//! they add to a given text must never change.

use std::collections::BTreeSet;

use super::address::{Address, Pci};
use super::device::{
    Controller, ControllerKind, DiskBus, Input, InputBus, InputKind, Mac, Video, VideoKind,
    WatchdogModel,
};
use super::{Boot, Chipset, Domain, DomainError};

pub(super) fn complete(domain: &mut Domain) -> Result<(), DomainError> {
    let Some(chipset) = domain.os.chipset() else {
        return Err(DomainError::Unsupported(format!(
            "machine type '{}' is not supported",
            domain.os.machine
        )));
    };
    boot(domain);
    for (at, interface) in domain.devices.interfaces.iter_mut().enumerate() {
        if interface.mac == Mac([0; 6]) {
            interface.mac = Mac::of(domain.uuid, at);
        }
    }
    // These two are last: what a migration does not tell is added there.
    let inputs = &mut domain.devices.inputs;
    let own = [InputKind::Mouse, InputKind::Keyboard].map(Input::ps2);
    inputs.retain(|input| !own.contains(input));
    inputs.extend(own);
    if !domain.devices.graphics.is_empty() && domain.devices.videos.is_empty() {
        let video = Video {
            kind: VideoKind::Vga,
            vram: Some(16384),
            heads: 1,
            address: None,
        };
        domain.devices.videos.push(video);
    }
    controllers(domain, chipset);
    units(domain);
    slots(domain, chipset)
}

fn boot(domain: &mut Domain) {
    let devices = &domain.devices;
    let ordered = devices.disks.iter().any(|d| d.boot_order.is_some())
        || devices.interfaces.iter().any(|i| i.boot_order.is_some());
    if domain.os.boot.is_empty() && !ordered {
        domain.os.boot.push(Boot::Disk);
    }
}

/// The controllers that the machine has, and those that devices need.
fn controllers(domain: &mut Domain, chipset: Chipset) {
    let devices = &mut domain.devices;
    let uses = |bus| devices.disks.iter().any(|disk| disk.bus == bus);
    let mut wanted = Vec::new();
    match chipset {
        Chipset::I440fx => wanted.push(Controller::piix3_usb()),
        Chipset::Q35 if devices.inputs.iter().any(|i| i.bus == InputBus::Usb) => {
            wanted.push(Controller {
                model: Some("qemu-xhci".into()),
                ..new(ControllerKind::Usb)
            });
        }
        Chipset::Q35 => {}
    }
    let root = if chipset == Chipset::I440fx {
        "pci-root"
    } else {
        "pcie-root"
    };
    wanted.push(Controller {
        model: Some(root.into()),
        ..new(ControllerKind::Pci)
    });
    if chipset == Chipset::I440fx && uses(DiskBus::Ide) {
        let address = Some(Address::Pci(Pci {
            function: 1,
            ..Pci::slot(1)
        }));
        wanted.push(Controller {
            address,
            ..new(ControllerKind::Ide)
        });
    }
    if chipset == Chipset::Q35 {
        let address = Some(Address::Pci(Pci {
            function: 2,
            ..Pci::slot(0x1f)
        }));
        wanted.push(Controller {
            address,
            ..new(ControllerKind::Sata)
        });
    } else if uses(DiskBus::Sata) {
        wanted.push(new(ControllerKind::Sata));
    }
    if uses(DiskBus::Scsi) {
        let model = Some("virtio-scsi".into());
        wanted.push(Controller {
            model,
            ..new(ControllerKind::Scsi)
        });
    }
    if !devices.channels.is_empty() {
        wanted.push(new(ControllerKind::VirtioSerial));
    }
    for controller in wanted {
        let same = |c: &&mut Controller| (c.kind, c.index) == (controller.kind, controller.index);
        match devices.controllers.iter_mut().find(same) {
            // What a text says of a controller of the machine may leave its model and place out.
            Some(there) => {
                there.address = there.address.or(controller.address);
                if there.model.is_none() {
                    there.model = controller.model;
                }
            }
            None => devices.controllers.push(controller),
        }
    }
    // In one order, whichever of them a text leaves out.
    devices
        .controllers
        .sort_by_key(|controller| (controller.kind, controller.index));
}

const fn new(kind: ControllerKind) -> Controller {
    Controller::new(kind, 0)
}

/// Places on buses other than PCI: by the name of a disk, by the order of the others.
fn units(domain: &mut Domain) {
    for disk in &mut domain.devices.disks {
        let index = disk.index().unwrap_or(0);
        let (bus, unit) = match disk.bus {
            DiskBus::Virtio => continue,
            DiskBus::Ide => (index / 2, index % 2),
            DiskBus::Sata | DiskBus::Scsi => (0, index),
        };
        disk.address.get_or_insert(Address::Drive {
            controller: 0,
            bus,
            target: 0,
            unit,
        });
    }
    for (port, channel) in (1..).zip(&mut domain.devices.channels) {
        channel.address.get_or_insert(Address::VirtioSerial {
            controller: 0,
            bus: 0,
            port,
        });
    }
    let usb = domain
        .devices
        .inputs
        .iter_mut()
        .filter(|input| input.bus == InputBus::Usb);
    for (port, input) in (1..).zip(usb) {
        input.address.get_or_insert(Address::Usb { bus: 0, port });
    }
}

/// Gives a slot of PCI bus 0 to each PCI device that has none, in a fixed order of kinds.
fn slots(domain: &mut Domain, chipset: Chipset) -> Result<(), DomainError> {
    let mut taken = BTreeSet::new();
    let mut slots: BTreeSet<u8> = match chipset {
        Chipset::I440fx => [0, 1].into(),
        Chipset::Q35 => [0, 0x1f].into(),
    };
    let mut homeless: Vec<&mut Option<Address>> = Vec::new();
    for (place, first_video) in pci_places(domain) {
        match place {
            Some(Address::Pci(pci)) => {
                if !taken.insert((pci.domain, pci.bus, pci.slot, pci.function)) {
                    return Err(DomainError::Xml(format!(
                        "PCI address {:04x}:{:02x}:{:02x}.{} is used twice",
                        pci.domain, pci.bus, pci.slot, pci.function
                    )));
                }
                if pci.bus == 0 {
                    slots.insert(pci.slot);
                }
            }
            Some(_) => {}
            // The first graphics card has a place of its own, if nobody else is there.
            None if first_video => homeless.insert(0, place),
            None => homeless.push(place),
        }
    }
    let first = if chipset == Chipset::I440fx { 2 } else { 1 };
    for place in homeless {
        let Some(slot) = (first..0x20).find(|slot| !slots.contains(slot)) else {
            return Err(DomainError::Unsupported(
                "no more available PCI slots".into(),
            ));
        };
        slots.insert(slot);
        *place = Some(Address::Pci(Pci::slot(slot)));
    }
    Ok(())
}

/// The places of all PCI devices, in the order in which slots are given; and which of them is the
/// first graphics card's.
fn pci_places(domain: &mut Domain) -> Vec<(&mut Option<Address>, bool)> {
    let d = &mut domain.devices;
    let mut places = Vec::new();
    places.extend(d.interfaces.iter_mut().map(|x| &mut x.address));
    let root = |c: &Controller| c.kind == ControllerKind::Pci && c.index == 0;
    let controllers = d.controllers.iter_mut().filter(|c| !root(c));
    places.extend(controllers.map(|x| &mut x.address));
    let disks = d.disks.iter_mut().filter(|x| x.bus == DiskBus::Virtio);
    places.extend(disks.map(|x| &mut x.address));
    let inputs = d.inputs.iter_mut().filter(|x| x.bus == InputBus::Virtio);
    places.extend(inputs.map(|x| &mut x.address));
    places.extend(d.hostdevs.iter_mut().map(|x| &mut x.address));
    places.extend(d.balloon.iter_mut().map(|x| &mut x.address));
    places.extend(d.rngs.iter_mut().map(|x| &mut x.address));
    let cards = d
        .watchdogs
        .iter_mut()
        .filter(|x| x.model == WatchdogModel::I6300esb);
    places.extend(cards.map(|x| &mut x.address));
    places.extend(d.vsock.iter_mut().map(|x| &mut x.address));
    let mut places: Vec<_> = places.into_iter().map(|place| (place, false)).collect();
    let videos = d.videos.iter_mut().filter(|x| x.kind != VideoKind::None);
    places.extend(videos.enumerate().map(|(at, x)| (&mut x.address, at == 0)));
    places
}
