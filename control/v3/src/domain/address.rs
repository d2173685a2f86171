//! Where a device is on its bus.

use crate::xml::{Element, Malformed, Tag, Writer};

/// Where a device is on its bus. Numbers are as in QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Address {
    /// A function of a slot of a PCI bus.
    Pci(Pci),
    /// A unit of a controller of disks.
    Drive {
        /// The index of the controller.
        controller: u32,
        /// The bus of the controller.
        bus: u32,
        /// The target on the bus (SCSI).
        target: u32,
        /// The unit.
        unit: u32,
    },
    /// A port of a virtio-serial controller.
    VirtioSerial {
        /// The index of the controller.
        controller: u32,
        /// The bus of the controller.
        bus: u32,
        /// The port.
        port: u32,
    },
    /// A port of a USB bus.
    Usb {
        /// The bus.
        bus: u32,
        /// The port.
        port: u32,
    },
}

/// A function of a slot of a PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pci {
    /// The domain: 0 in a guest.
    pub domain: u16,
    /// The bus: the index of a PCI controller in a guest.
    pub bus: u8,
    /// The slot, below 32.
    pub slot: u8,
    /// The function, below 8.
    pub function: u8,
    /// Whether other functions of the slot are devices as well.
    pub multifunction: bool,
}

impl Pci {
    /// Function 0 of a slot of bus 0.
    #[must_use]
    pub const fn slot(slot: u8) -> Self {
        Self {
            domain: 0,
            bus: 0,
            slot,
            function: 0,
            multifunction: false,
        }
    }

    /// Reads the numbers of an address that has the form of a PCI address.
    pub(super) fn read(element: &mut Element<'_>) -> Result<Self, Malformed> {
        let byte = |text: &str| number(text).and_then(|n| u8::try_from(n).ok());
        let word = |text: &str| number(text).and_then(|n| u16::try_from(n).ok());
        Ok(Self {
            domain: element.read("domain", word)?.unwrap_or(0),
            bus: element.read("bus", byte)?.unwrap_or(0),
            slot: element
                .read("slot", |v| byte(v).filter(|n| *n < 32))?
                .unwrap_or(0),
            function: element
                .read("function", |v| byte(v).filter(|n| *n < 8))?
                .unwrap_or(0),
            multifunction: element
                .read("multifunction", super::words::on_off)?
                .unwrap_or(false),
        })
    }

    pub(super) fn write(&self, tag: Tag<'_>) {
        let tag = tag
            .attribute("domain", format_args!("{:#06x}", self.domain))
            .attribute("bus", format_args!("{:#04x}", self.bus))
            .attribute("slot", format_args!("{:#04x}", self.slot))
            .attribute("function", format_args!("{:#x}", self.function));
        tag.attribute_of("multifunction", self.multifunction.then_some("on"))
            .empty();
    }
}

/// Reads a number, decimal or with `0x`.
pub(super) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl Address {
    /// Takes a device's address.
    pub(super) fn read_of(device: &mut Element<'_>) -> Result<Option<Self>, Malformed> {
        let Some(mut element) = device.child("address")? else {
            return Ok(None);
        };
        let kind = element.required("type")?;
        let address = match kind {
            "pci" => Self::Pci(Pci::read(&mut element)?),
            "drive" => Self::Drive {
                controller: part(&mut element, "controller")?,
                bus: part(&mut element, "bus")?,
                target: part(&mut element, "target")?,
                unit: part(&mut element, "unit")?,
            },
            "virtio-serial" => Self::VirtioSerial {
                controller: part(&mut element, "controller")?,
                bus: part(&mut element, "bus")?,
                port: part(&mut element, "port")?,
            },
            "usb" => Self::Usb {
                bus: part(&mut element, "bus")?,
                port: part(&mut element, "port")?,
            },
            _ => {
                return Err(Malformed::Unknown(format!(
                    "{}[@type='{kind}']",
                    element.path()
                )));
            }
        };
        element.finish()?;
        Ok(Some(address))
    }

    pub(super) fn write(&self, w: &mut Writer) {
        let tag = w.element("address");
        match self {
            Self::Pci(pci) => pci.write(tag.attribute("type", "pci")),
            Self::Drive {
                controller,
                bus,
                target,
                unit,
            } => tag
                .attribute("type", "drive")
                .attribute("controller", controller)
                .attribute("bus", bus)
                .attribute("target", target)
                .attribute("unit", unit)
                .empty(),
            Self::VirtioSerial {
                controller,
                bus,
                port,
            } => tag
                .attribute("type", "virtio-serial")
                .attribute("controller", controller)
                .attribute("bus", bus)
                .attribute("port", port)
                .empty(),
            Self::Usb { bus, port } => {
                tag.attribute("type", "usb")
                    .attribute("bus", bus)
                    .attribute("port", port)
                    .empty();
            }
        }
    }
}

fn part(element: &mut Element<'_>, name: &str) -> Result<u32, Malformed> {
    Ok(element.read(name, number)?.unwrap_or(0))
}
