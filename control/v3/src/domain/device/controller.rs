//! What other devices are plugged into.

use super::{As, take_tail};
use crate::domain::address::{Address, Pci, number};
use crate::domain::words::words;
use crate::xml::{Element, Malformed, Writer};

/// A controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// What can be plugged into it.
    pub kind: ControllerKind,
    /// Its number among those of its kind.
    pub index: u32,
    /// The model, where there are several.
    pub model: Option<String>,
    /// How many ports it has, where that is chosen.
    pub ports: Option<u32>,
    /// What a port of PCI Express is to its parent.
    pub target: Option<PortTarget>,
    /// Where it is itself.
    pub address: Option<Address>,
}

words! {
    /// What can be plugged into a controller.
    pub enum ControllerKind {
        /// USB devices.
        Usb = "usb",
        /// PCI devices.
        Pci = "pci",
        /// IDE disks.
        Ide = "ide",
        /// SATA disks.
        Sata = "sata",
        /// SCSI disks.
        Scsi = "scsi",
        /// Channels.
        VirtioSerial = "virtio-serial",
    }
}

/// What a port of PCI Express is to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortTarget {
    /// The number of its chassis.
    pub chassis: u32,
    /// The number of the port.
    pub port: u32,
}

/// The place of the USB controller that every i440FX machine has.
const PIIX3_USB: Pci = Pci {
    domain: 0,
    bus: 0,
    slot: 1,
    function: 2,
    multifunction: false,
};

impl Controller {
    /// A controller of this kind and number, and nothing more said.
    #[must_use]
    pub const fn new(kind: ControllerKind, index: u32) -> Self {
        Self {
            kind,
            index,
            model: None,
            ports: None,
            target: None,
            address: None,
        }
    }

    /// The USB controller that an i440FX machine gets when nobody asks for another one.
    #[must_use]
    pub fn piix3_usb() -> Self {
        Self {
            model: Some("piix3-uhci".into()),
            address: Some(Address::Pci(PIIX3_USB)),
            ..Self::new(ControllerKind::Usb, 0)
        }
    }

    /// Whether the other end of a migration adds it without being told.
    pub(super) fn is_implied(&self) -> bool {
        let root = self.kind == ControllerKind::Pci
            && self.index == 0
            && self.model.as_deref() == Some("pci-root");
        root || *self == Self::piix3_usb()
    }

    /// The name of the device in QEMU.
    #[must_use]
    pub fn alias(&self) -> String {
        let index = self.index;
        match (self.kind, self.model.as_deref()) {
            (ControllerKind::Pci, Some("pcie-root")) => format!("pcie.{index}"),
            (ControllerKind::Pci, _) => format!("pci.{index}"),
            // These are part of the machine, which names them.
            (ControllerKind::Usb | ControllerKind::Ide, _) if index == 0 => {
                self.kind.word().to_owned()
            }
            (ControllerKind::Sata, _) if index == 0 => "ide".to_owned(),
            (kind, _) => format!("{kind}{index}"),
        }
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let kind = element.read_required("type", ControllerKind::from_word)?;
        let index = element.read("index", number)?.unwrap_or(0);
        let model = element.attribute("model").map(str::to_owned);
        let ports = element.read("ports", number)?;
        if let Some(mut name) = element.child("model")? {
            // libvirt says twice what the device is called; both must agree.
            if name.attribute("name") != model.as_deref() {
                return Err(name.unknown());
            }
            name.finish()?;
        }
        let target = element.child("target")?.map(PortTarget::read).transpose()?;
        let address = take_tail(&mut element)?;
        element.finish()?;
        Ok(Self {
            kind,
            index,
            model,
            ports,
            target,
            address,
        })
    }

    pub(super) fn write(&self, w: &mut Writer, to: As) {
        w.element("controller")
            .attribute("type", self.kind)
            .attribute("index", self.index)
            .attribute_of("model", self.model.as_ref())
            .attribute_of("ports", self.ports)
            .body(|w| {
                if let Some(target) = &self.target {
                    w.element("model")
                        .attribute_of("name", self.model.as_ref())
                        .empty();
                    w.element("target")
                        .attribute("chassis", target.chassis)
                        .attribute("port", format_args!("{:#x}", target.port))
                        .empty();
                }
                to.tail(w, || self.alias(), self.address.as_ref());
            });
    }
}

impl PortTarget {
    fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let target = Self {
            chassis: element.read_required("chassis", number)?,
            port: element.read_required("port", number)?,
        };
        element.finish()?;
        Ok(target)
    }
}
