//! Serial lines, the console, and named channels.

use super::{As, take_tail};
use crate::domain::address::{Address, number};
use crate::domain::chardev::Chardev;
use crate::xml::{Element, Malformed, Writer};

/// A serial line of an ISA card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// Where its bytes go on the host.
    pub backend: Chardev,
    /// Its number, from 0; by default its place in the description.
    pub port: Option<u32>,
}

/// A named line between host and guest, over virtio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Where its bytes go on the host.
    pub backend: Chardev,
    /// Its name.
    pub name: String,
    /// Its port.
    pub address: Option<Address>,
}

impl Serial {
    /// The name of the device in QEMU.
    #[must_use]
    pub fn alias(&self) -> String {
        format!("serial{}", self.port.unwrap_or(0))
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let backend = Chardev::read_of(&mut element)?;
        let mut port = None;
        if let Some(mut target) = element.child("target")? {
            if target
                .attribute("type")
                .is_some_and(|kind| kind != "isa-serial")
            {
                return Err(target.unknown());
            }
            port = target.read("port", number)?;
            if let Some(mut model) = target.child("model")? {
                if model
                    .attribute("name")
                    .is_some_and(|name| name != "isa-serial")
                {
                    return Err(model.unknown());
                }
                model.finish()?;
            }
            target.finish()?;
        }
        take_tail(&mut element)?;
        element.finish()?;
        Ok(Self { backend, port })
    }

    pub(super) fn write(&self, w: &mut Writer, to: As) {
        self.backend.attributes(w.element("serial")).body(|w| {
            self.backend.write(w, to.live);
            w.element("target")
                .attribute("type", "isa-serial")
                .attribute("port", self.port.unwrap_or(0))
                .body(|w| w.element("model").attribute("name", "isa-serial").empty());
            to.tail(w, || self.alias(), None);
        });
    }

    /// The console is the first serial line, told once more.
    pub(super) fn write_console(&self, w: &mut Writer, to: As) {
        let tag = self.backend.attributes(w.element("console"));
        let terminal = match &self.backend {
            Chardev::Pty(path) if to.live => path.as_ref(),
            _ => None,
        };
        tag.attribute_of("tty", terminal).body(|w| {
            self.backend.write(w, to.live);
            let port = self.port.unwrap_or(0);
            w.element("target")
                .attribute("type", "serial")
                .attribute("port", port)
                .empty();
            to.tail(w, || self.alias(), None);
        });
    }
}

/// Reads the consoles: one that repeats the first serial line, or stands for it.
pub(super) fn read_consoles(
    elements: Vec<Element<'_>>,
    serials: &mut Vec<Serial>,
) -> Result<(), Malformed> {
    for (at, mut element) in elements.into_iter().enumerate() {
        element.attribute("tty");
        let backend = Chardev::read_of(&mut element)?;
        let mut port = None;
        if let Some(mut target) = element.child("target")? {
            if at > 0
                || target
                    .attribute("type")
                    .is_some_and(|kind| kind != "serial")
            {
                return Err(target.unknown());
            }
            port = target.read("port", number)?;
            target.finish()?;
        }
        take_tail(&mut element)?;
        if at > 0 {
            return Err(element.unknown());
        }
        element.finish()?;
        if serials.is_empty() {
            serials.push(Serial {
                backend,
                port: Some(port.unwrap_or(0)),
            });
        }
    }
    Ok(())
}

impl Channel {
    /// The name of the device in QEMU.
    #[must_use]
    pub fn alias(at: usize) -> String {
        format!("channel{at}")
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let backend = Chardev::read_of(&mut element)?;
        let mut target = element.child_required("target")?;
        if target.attribute("type") != Some("virtio") {
            return Err(target.unknown());
        }
        let name = target.required("name")?.to_owned();
        target.attribute("state");
        target.finish()?;
        let address = take_tail(&mut element)?;
        element.finish()?;
        Ok(Self {
            backend,
            name,
            address,
        })
    }

    pub(super) fn write(&self, w: &mut Writer, to: As, at: usize) {
        self.backend.attributes(w.element("channel")).body(|w| {
            self.backend.write(w, to.live);
            w.element("target")
                .attribute("type", "virtio")
                .attribute("name", &self.name)
                .empty();
            to.tail(w, || Self::alias(at), self.address.as_ref());
        });
    }
}
