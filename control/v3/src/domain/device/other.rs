//! Small devices: watchdog, balloon, source of random numbers, socket between host and guest.

use super::{As, take_tail};
use crate::domain::address::Address;
use crate::domain::words::{on_off, on_or_off, words, yes_no};
use crate::xml::{Element, Malformed, Writer};

/// A watchdog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    /// What it is to the guest.
    pub model: WatchdogModel,
    /// What happens when the guest does not answer.
    pub action: WatchdogAction,
    /// Where it is on the PCI bus.
    pub address: Option<Address>,
}

words! {
    /// What a watchdog is to the guest.
    pub enum WatchdogModel {
        /// A PCI card.
        I6300esb = "i6300esb",
        /// A part of the q35 machine.
        Itco = "itco",
    }
}

words! {
    /// What happens when the guest does not answer its watchdog.
    pub enum WatchdogAction {
        /// It is reset.
        Reset = "reset",
        /// It is told to shut down.
        Shutdown = "shutdown",
        /// It is switched off.
        Poweroff = "poweroff",
        /// It is paused.
        Pause = "pause",
        /// Nothing.
        None = "none",
    }
}

impl Watchdog {
    /// The name of the device in QEMU.
    #[must_use]
    pub fn alias(at: usize) -> String {
        format!("watchdog{at}")
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let model = element.read_required("model", WatchdogModel::from_word)?;
        let action = element.read("action", WatchdogAction::from_word)?;
        let address = take_tail(&mut element)?;
        element.finish()?;
        Ok(Self {
            model,
            action: action.unwrap_or(WatchdogAction::Reset),
            address,
        })
    }

    pub(super) fn write(&self, w: &mut Writer, to: As, at: usize) {
        w.element("watchdog")
            .attribute("model", self.model)
            .attribute("action", self.action)
            .body(|w| to.tail(w, || Self::alias(at), self.address.as_ref()));
    }
}

/// What gives memory back to the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balloon {
    /// Whether it gives memory back before the guest runs out of its own.
    pub autodeflate: Option<bool>,
    /// Whether the guest says which pages it does not use.
    pub free_page_reporting: Option<bool>,
    /// Where it is on the PCI bus.
    pub address: Option<Address>,
}

impl Balloon {
    /// The name of the device in QEMU.
    pub const ALIAS: &'static str = "balloon0";

    pub(super) fn read(mut element: Element<'_>) -> Result<Option<Self>, Malformed> {
        let model = element.required("model")?;
        let autodeflate = element.read("autodeflate", on_off)?;
        let free_page_reporting = element.read("freePageReporting", on_off)?;
        let address = take_tail(&mut element)?;
        match model {
            "none" => {
                element.finish()?;
                Ok(None)
            }
            "virtio" => {
                element.finish()?;
                Ok(Some(Self {
                    autodeflate,
                    free_page_reporting,
                    address,
                }))
            }
            _ => Err(Malformed::Unknown(format!(
                "{}[@model='{model}']",
                element.path()
            ))),
        }
    }

    pub(super) fn write(balloon: Option<&Self>, w: &mut Writer, to: As) {
        let Some(balloon) = balloon else {
            w.element("memballoon").attribute("model", "none").empty();
            return;
        };
        w.element("memballoon")
            .attribute("model", "virtio")
            .attribute_of("autodeflate", balloon.autodeflate.map(on_or_off))
            .attribute_of(
                "freePageReporting",
                balloon.free_page_reporting.map(on_or_off),
            )
            .body(|w| to.tail(w, || Self::ALIAS.to_owned(), balloon.address.as_ref()));
    }
}

/// A source of random numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    /// The file that the host reads them from.
    pub source: String,
    /// Where it is on the PCI bus.
    pub address: Option<Address>,
}

impl Rng {
    /// The name of the device in QEMU.
    #[must_use]
    pub fn alias(at: usize) -> String {
        format!("rng{at}")
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        if element.required("model")? != "virtio" {
            return Err(element.unknown());
        }
        let mut backend = element.child_required("backend")?;
        if backend.required("model")? != "random" {
            return Err(backend.unknown());
        }
        let text = backend.text();
        let source = match text.trim() {
            "" => "/dev/urandom".to_owned(),
            path => path.to_owned(),
        };
        backend.finish()?;
        let address = take_tail(&mut element)?;
        element.finish()?;
        Ok(Self { source, address })
    }

    pub(super) fn write(&self, w: &mut Writer, to: As, at: usize) {
        w.element("rng").attribute("model", "virtio").body(|w| {
            w.element("backend")
                .attribute("model", "random")
                .text(&self.source);
            to.tail(w, || Self::alias(at), self.address.as_ref());
        });
    }
}

/// The socket between host and guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vsock {
    /// The guest's number, from 3, or one that the host chooses when the guest starts.
    pub cid: Option<u32>,
    /// Where it is on the PCI bus.
    pub address: Option<Address>,
}

impl Vsock {
    /// The name of the device in QEMU.
    pub const ALIAS: &'static str = "vsock0";

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        if element
            .attribute("model")
            .is_some_and(|model| model != "virtio")
        {
            return Err(element.unknown());
        }
        let mut cid = None;
        if let Some(mut child) = element.child("cid")? {
            let auto = child.read("auto", yes_no)?.unwrap_or(false);
            let address = child.read("address", |v| v.parse().ok().filter(|n| *n > 2))?;
            cid = address.filter(|_| !auto);
            child.finish()?;
        }
        let address = take_tail(&mut element)?;
        element.finish()?;
        Ok(Self { cid, address })
    }

    pub(super) fn write(&self, w: &mut Writer, to: As) {
        w.element("vsock").attribute("model", "virtio").body(|w| {
            let auto = crate::domain::words::word_of(self.cid.is_none());
            w.element("cid")
                .attribute("auto", auto)
                .attribute_of("address", self.cid)
                .empty();
            to.tail(w, || Self::ALIAS.to_owned(), self.address.as_ref());
        });
    }
}
