//! Devices of the host that the guest has to itself. A guest with one cannot be moved.

use super::{As, take_tail};
use crate::domain::address::{Address, Pci};
use crate::domain::words::{word_of, yes_no};
use crate::xml::{Element, Malformed, Writer};

/// A PCI device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostdev {
    /// Whether it is taken from the host's driver and given back without somebody doing so.
    pub managed: bool,
    /// Where it is on the host.
    pub source: Pci,
    /// Where it is in the guest.
    pub address: Option<Address>,
}

impl Hostdev {
    /// The name of the device in QEMU.
    #[must_use]
    pub fn alias(at: usize) -> String {
        format!("hostdev{at}")
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let mode = element.attribute("mode").unwrap_or("subsystem");
        let kind = element.required("type")?;
        if (mode, kind) != ("subsystem", "pci") {
            return Err(Malformed::Unknown(format!(
                "{}[@type='{kind}']",
                element.path()
            )));
        }
        let managed = element.read("managed", yes_no)?.unwrap_or(false);
        let mut source = element.child_required("source")?;
        let mut place = source.child_required("address")?;
        let pci = Pci::read(&mut place)?;
        place.finish()?;
        source.finish()?;
        if let Some(mut driver) = element.child("driver")? {
            if driver.attribute("name").is_some_and(|name| name != "vfio") {
                return Err(driver.unknown());
            }
            driver.finish()?;
        }
        let address = take_tail(&mut element)?;
        element.finish()?;
        Ok(Self {
            managed,
            source: pci,
            address,
        })
    }

    pub(super) fn write(&self, w: &mut Writer, to: As, at: usize) {
        w.element("hostdev")
            .attribute("mode", "subsystem")
            .attribute("type", "pci")
            .attribute("managed", word_of(self.managed))
            .body(|w| {
                if to.live {
                    w.element("driver").attribute("name", "vfio").empty();
                }
                w.element("source")
                    .body(|w| self.source.write(w.element("address")));
                to.tail(w, || Self::alias(at), self.address.as_ref());
            });
    }
}
