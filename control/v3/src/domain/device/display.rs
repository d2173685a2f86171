//! Keyboards and mice, screens, and the sound that every guest has none of.

use super::{As, take_tail};
use crate::domain::address::{Address, number};
use crate::domain::words::{words, yes_no};
use crate::xml::{Element, Malformed, Writer};

/// A keyboard, a mouse or a tablet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What it is.
    pub kind: InputKind,
    /// What it is plugged into.
    pub bus: InputBus,
    /// Its port.
    pub address: Option<Address>,
}

words! {
    /// What an input device is.
    pub enum InputKind {
        /// A mouse.
        Mouse = "mouse",
        /// A keyboard.
        Keyboard = "keyboard",
        /// A mouse that tells where it is, not how it moved.
        Tablet = "tablet",
    }
}

words! {
    /// What an input device is plugged into.
    pub enum InputBus {
        /// The controller that every machine has.
        Ps2 = "ps2",
        /// USB.
        Usb = "usb",
        /// The PCI bus.
        Virtio = "virtio",
    }
}

impl Input {
    /// A device that every machine has.
    #[must_use]
    pub const fn ps2(kind: InputKind) -> Self {
        Self {
            kind,
            bus: InputBus::Ps2,
            address: None,
        }
    }

    /// Whether the other end of a migration adds it without being told. libvirt tells of the mouse.
    pub(super) fn is_implied(&self) -> bool {
        *self == Self::ps2(InputKind::Keyboard)
    }

    /// The name of the device in QEMU.
    #[must_use]
    pub fn alias(at: usize) -> String {
        format!("input{at}")
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let kind = element.read_required("type", InputKind::from_word)?;
        let by_kind = if kind == InputKind::Tablet {
            InputBus::Usb
        } else {
            InputBus::Ps2
        };
        let bus = element.read("bus", InputBus::from_word)?.unwrap_or(by_kind);
        let address = take_tail(&mut element)?;
        element.finish()?;
        Ok(Self { kind, bus, address })
    }

    pub(super) fn write(&self, w: &mut Writer, to: As, at: usize) {
        w.element("input")
            .attribute("type", self.kind)
            .attribute("bus", self.bus)
            .body(|w| {
                to.tail(w, || Self::alias(at), self.address.as_ref());
            });
    }
}

/// Where the guest's screen is shown: by VNC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graphics {
    /// The TCP port, or one that the host chooses when the guest starts.
    pub port: Option<u16>,
    /// The address that is listened on.
    pub listen: Option<String>,
}

impl Graphics {
    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        if element.required("type")? != "vnc" {
            return Err(element.unknown());
        }
        let port = element
            .read("port", |v| v.parse::<i32>().ok())?
            .unwrap_or(-1);
        let auto = element.read("autoport", yes_no)?.unwrap_or(port == -1);
        let port = match (auto, port) {
            (true, _) | (false, -1) => None,
            (false, port) => match u16::try_from(port) {
                Ok(port) if port >= 5900 => Some(port),
                _ => return Err(element.invalid(port.to_string())),
            },
        };
        let mut listen = element.attribute("listen").map(str::to_owned);
        if let Some(mut child) = element.child("listen")? {
            if child.required("type")? != "address" {
                return Err(child.unknown());
            }
            listen = child.attribute("address").map(str::to_owned).or(listen);
            child.finish()?;
        }
        element.finish()?;
        Ok(Self { port, listen })
    }

    pub(super) fn write(&self, w: &mut Writer, _to: As) {
        let port = self.port.map_or(-1, i32::from);
        w.element("graphics")
            .attribute("type", "vnc")
            .attribute("port", port)
            .attribute(
                "autoport",
                crate::domain::words::word_of(self.port.is_none()),
            )
            .attribute_of("listen", self.listen.as_ref())
            .body(|w| {
                if let Some(listen) = &self.listen {
                    w.element("listen")
                        .attribute("type", "address")
                        .attribute("address", listen)
                        .empty();
                }
            });
    }
}

/// A graphics card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Video {
    /// What it is.
    pub kind: VideoKind,
    /// Its memory in KiB, where it has some of its own.
    pub vram: Option<u32>,
    /// How many screens can be attached.
    pub heads: u32,
    /// Where it is on the PCI bus.
    pub address: Option<Address>,
}

words! {
    /// What a graphics card is.
    pub enum VideoKind {
        /// The standard card.
        Vga = "vga",
        /// The card of old.
        Cirrus = "cirrus",
        /// A virtio device.
        Virtio = "virtio",
        /// There is none, and none is added.
        None = "none",
    }
}

impl Video {
    /// The name of the device in QEMU.
    #[must_use]
    pub fn alias(at: usize) -> String {
        format!("video{at}")
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let mut model = element.child_required("model")?;
        let kind = model.read_required("type", VideoKind::from_word)?;
        let vram = model.read("vram", number)?;
        let heads = model.read("heads", number)?.unwrap_or(1);
        if model
            .attribute("primary")
            .is_some_and(|primary| primary != "yes")
        {
            return Err(model.unknown());
        }
        model.finish()?;
        let address = take_tail(&mut element)?;
        element.finish()?;
        let own = matches!(kind, VideoKind::Vga | VideoKind::Cirrus);
        Ok(Self {
            kind,
            vram: vram
                .or_else(|| own.then_some(16384))
                .filter(|_| kind != VideoKind::None),
            heads: if kind == VideoKind::None { 1 } else { heads },
            address,
        })
    }

    pub(super) fn write(&self, w: &mut Writer, to: As, at: usize) {
        w.element("video").body(|w| {
            let tag = w.element("model").attribute("type", self.kind);
            if self.kind == VideoKind::None {
                tag.empty();
            } else {
                tag.attribute_of("vram", self.vram)
                    .attribute("heads", self.heads)
                    .attribute_of("primary", (at == 0).then_some("yes"))
                    .empty();
            }
            to.tail(w, || Self::alias(at), self.address.as_ref());
        });
    }
}

/// Reads what a guest hears by: nothing, as long as it has no sound card.
pub(super) fn read_audio(elements: Vec<Element<'_>>) -> Result<(), Malformed> {
    for mut element in elements {
        element.attribute("id");
        if element.attribute("type") != Some("none") {
            return Err(element.unknown());
        }
        element.finish()?;
    }
    Ok(())
}

/// Writes what a guest hears by.
pub(super) fn write_audio(w: &mut Writer) {
    w.element("audio")
        .attribute("id", 1)
        .attribute("type", "none")
        .empty();
}
