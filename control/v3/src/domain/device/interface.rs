//! Network devices.

use std::fmt;

use super::disk::{read_boot, write_boot};
use super::{As, take_tail};
use crate::domain::Uuid;
use crate::domain::address::Address;
use crate::domain::words::words;
use crate::xml::{Element, Malformed, Writer};

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// What it is connected to on the host.
    pub kind: InterfaceKind,
    /// Its hardware address.
    pub mac: Mac,
    /// What it is to the guest.
    pub model: InterfaceModel,
    /// The largest packet, in bytes, where the guest is told one.
    pub mtu: Option<u32>,
    /// Its place among the devices to boot from, from 1.
    pub boot_order: Option<u32>,
    /// Where it is on the PCI bus.
    pub address: Option<Address>,
}

/// What a network device is connected to on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceKind {
    /// QEMU's own network stack.
    User,
    /// A bridge.
    Bridge {
        /// The bridge.
        bridge: String,
        /// The host's end; without one QEMU's driver chooses it.
        target: Option<String>,
    },
    /// A tap device that somebody else takes care of.
    Ethernet {
        /// The tap device.
        target: Option<String>,
    },
}

words! {
    /// What a network device is to the guest.
    pub enum InterfaceModel {
        /// A virtio device.
        Virtio = "virtio",
        /// An Intel card.
        E1000 = "e1000",
        /// A newer Intel card.
        E1000e = "e1000e",
        /// A Realtek card.
        Rtl8139 = "rtl8139",
    }
}

/// The hardware address of a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads six bytes in hexadecimal, separated by colons. An address of a group is none of a device.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let part = parts.next().filter(|p| (1..=2).contains(&p.len()))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        (parts.next().is_none() && bytes[0] & 1 == 0).then_some(Self(bytes))
    }

    /// The address of the device with this number, in QEMU's range; the same for the same guest.
    #[must_use]
    pub fn of(guest: Uuid, at: usize) -> Self {
        // FNV-1a: an address has to be spread over the range, and no more than that.
        let hash = guest
            .0
            .iter()
            .chain(&at.to_le_bytes())
            .fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
            });
        let [a, b, c, _] = hash.to_le_bytes();
        Self([0x52, 0x54, 0, a, b, c])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Interface {
    /// The name of the device in QEMU.
    #[must_use]
    pub fn alias(at: usize) -> String {
        format!("net{at}")
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let word = element.required("type")?;
        let mut bridge = None;
        if let Some(mut source) = element.child("source")? {
            bridge = source.attribute("bridge").map(str::to_owned);
            source.finish()?;
        }
        let mut target = None;
        if let Some(mut child) = element.child("target")? {
            target = child.attribute("dev").map(str::to_owned);
            child.attribute("managed");
            child.finish()?;
        }
        let kind = match (word, bridge) {
            ("user", None) if target.is_none() => InterfaceKind::User,
            ("bridge", Some(bridge)) => InterfaceKind::Bridge { bridge, target },
            ("bridge", None) => {
                return Err(Malformed::Missing(format!(
                    "{}/source/@bridge",
                    element.path()
                )));
            }
            ("ethernet", None) => InterfaceKind::Ethernet { target },
            _ => {
                return Err(Malformed::Unknown(format!(
                    "{}[@type='{word}']",
                    element.path()
                )));
            }
        };
        let mut mac = None;
        if let Some(mut child) = element.child("mac")? {
            mac = Some(child.read_required("address", Mac::parse)?);
            child.finish()?;
        }
        let mut model = None;
        if let Some(mut child) = element.child("model")? {
            model = child.read("type", InterfaceModel::from_word)?;
            child.finish()?;
        }
        let mut mtu = None;
        if let Some(mut child) = element.child("mtu")? {
            mtu = child.read("size", |v| {
                v.parse().ok().filter(|n| (68..=65535).contains(n))
            })?;
            child.finish()?;
        }
        let boot_order = read_boot(&mut element)?;
        let address = take_tail(&mut element)?;
        element.finish()?;
        Ok(Self {
            kind,
            mac: mac.unwrap_or(Mac([0; 6])),
            model: model.unwrap_or(InterfaceModel::Rtl8139),
            mtu,
            boot_order,
            address,
        })
    }

    pub(super) fn write(&self, w: &mut Writer, to: As, at: usize) {
        let (word, bridge, target) = match &self.kind {
            InterfaceKind::User => ("user", None, None),
            InterfaceKind::Bridge { bridge, target } => ("bridge", Some(bridge), target.as_ref()),
            InterfaceKind::Ethernet { target } => ("ethernet", None, target.as_ref()),
        };
        w.element("interface").attribute("type", word).body(|w| {
            w.element("mac").attribute("address", self.mac).empty();
            if let Some(bridge) = bridge {
                w.element("source").attribute("bridge", bridge).empty();
            }
            if let Some(target) = target {
                w.element("target").attribute("dev", target).empty();
            }
            w.element("model").attribute("type", self.model).empty();
            if let Some(mtu) = self.mtu {
                w.element("mtu").attribute("size", mtu).empty();
            }
            write_boot(w, self.boot_order);
            to.tail(w, || Self::alias(at), self.address.as_ref());
        });
    }
}
