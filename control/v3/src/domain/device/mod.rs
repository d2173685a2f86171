//! The devices of a guest, one module a kind.

mod controller;
mod disk;
mod display;
mod host;
mod interface;
mod other;
mod serial;

pub use controller::{Controller, ControllerKind, PortTarget};
pub use disk::{
    Cache, Discard, Disk, DiskBus, DiskDevice, DiskDriver, DiskFormat, DiskIo, DiskSource,
};
pub use display::{Graphics, Input, InputBus, InputKind, Video, VideoKind};
pub use host::Hostdev;
pub use interface::{Interface, InterfaceKind, InterfaceModel, Mac};
pub use other::{Balloon, Rng, Vsock, Watchdog, WatchdogAction, WatchdogModel};
pub use serial::{Channel, Serial};

use super::address::Address;
use crate::xml::{Element, Malformed, Writer};

/// The devices of a guest, in libvirt's order of kinds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    /// The program that is the hypervisor.
    pub emulator: Option<String>,
    /// Disks and drives.
    pub disks: Vec<Disk>,
    /// What other devices are plugged into.
    pub controllers: Vec<Controller>,
    /// Network devices.
    pub interfaces: Vec<Interface>,
    /// Serial lines. The first one is the console as well.
    pub serials: Vec<Serial>,
    /// Named lines between host and guest.
    pub channels: Vec<Channel>,
    /// Keyboards, mice and tablets.
    pub inputs: Vec<Input>,
    /// Where the guest's screen is shown.
    pub graphics: Vec<Graphics>,
    /// Graphics cards.
    pub videos: Vec<Video>,
    /// Devices of the host that the guest has to itself.
    pub hostdevs: Vec<Hostdev>,
    /// Watchdogs.
    pub watchdogs: Vec<Watchdog>,
    /// What gives memory back to the host. `None` if the guest is to have no such device.
    pub balloon: Option<Balloon>,
    /// Sources of random numbers.
    pub rngs: Vec<Rng>,
    /// The socket between host and guest.
    pub vsock: Option<Vsock>,
}

/// What a device is written for: one that runs has a name and more to tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct As {
    /// The guest runs, and what it got is written.
    pub(super) live: bool,
    /// Only what the other end of a migration has to be told.
    pub(super) migratable: bool,
}

impl As {
    /// The end of each device: its name, if it runs, and its place.
    fn tail(self, w: &mut Writer, alias: impl FnOnce() -> String, address: Option<&Address>) {
        if self.live {
            w.element("alias").attribute("name", alias()).empty();
        }
        if let Some(address) = address {
            address.write(w);
        }
    }
}

/// Takes the name and the place of a device. Names are made anew by the rules; one that a user chose
/// would be lost, and is refused.
fn take_tail(element: &mut Element<'_>) -> Result<Option<Address>, Malformed> {
    if let Some(mut alias) = element.child("alias")? {
        if alias
            .attribute("name")
            .is_some_and(|name| name.starts_with("ua-"))
        {
            return Err(alias.unknown());
        }
        alias.finish()?;
    }
    Address::read_of(element)
}

fn all<T>(
    elements: Vec<Element<'_>>,
    read: impl FnMut(Element<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    elements.into_iter().map(read).collect()
}

impl Devices {
    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let mut devices = Self {
            emulator: element.text_of("emulator")?,
            disks: all(element.children("disk"), Disk::read)?,
            controllers: all(element.children("controller"), Controller::read)?,
            interfaces: all(element.children("interface"), Interface::read)?,
            serials: all(element.children("serial"), Serial::read)?,
            channels: all(element.children("channel"), Channel::read)?,
            inputs: all(element.children("input"), Input::read)?,
            graphics: all(element.children("graphics"), Graphics::read)?,
            videos: all(element.children("video"), Video::read)?,
            hostdevs: all(element.children("hostdev"), Hostdev::read)?,
            watchdogs: all(element.children("watchdog"), Watchdog::read)?,
            rngs: all(element.children("rng"), Rng::read)?,
            vsock: element.child("vsock")?.map(Vsock::read).transpose()?,
            balloon: match element.child("memballoon")? {
                Some(balloon) => Balloon::read(balloon)?,
                None => Some(Balloon::default()),
            },
        };
        for (port, serial) in devices.serials.iter_mut().enumerate() {
            serial.port.get_or_insert(port as u32);
        }
        serial::read_consoles(element.children("console"), &mut devices.serials)?;
        display::read_audio(element.children("audio"))?;
        element.finish()?;
        Ok(devices)
    }

    pub(super) fn write(&self, w: &mut Writer, to: As) {
        w.element("devices").body(|w| {
            w.text_of("emulator", self.emulator.as_ref());
            for (at, disk) in self.disks.iter().enumerate() {
                disk.write(w, to, at);
            }
            for controller in &self.controllers {
                if !(to.migratable && controller.is_implied()) {
                    controller.write(w, to);
                }
            }
            for (at, interface) in self.interfaces.iter().enumerate() {
                interface.write(w, to, at);
            }
            for serial in &self.serials {
                serial.write(w, to);
            }
            if let Some(first) = self.serials.first() {
                first.write_console(w, to);
            }
            for (at, channel) in self.channels.iter().enumerate() {
                channel.write(w, to, at);
            }
            for (at, input) in self.inputs.iter().enumerate() {
                if !(to.migratable && input.is_implied()) {
                    input.write(w, to, at);
                }
            }
            for graphics in &self.graphics {
                graphics.write(w, to);
            }
            if !to.migratable {
                display::write_audio(w);
            }
            for (at, video) in self.videos.iter().enumerate() {
                video.write(w, to, at);
            }
            for (at, hostdev) in self.hostdevs.iter().enumerate() {
                hostdev.write(w, to, at);
            }
            for (at, watchdog) in self.watchdogs.iter().enumerate() {
                watchdog.write(w, to, at);
            }
            Balloon::write(self.balloon.as_ref(), w, to);
            for (at, rng) in self.rngs.iter().enumerate() {
                rng.write(w, to, at);
            }
            if let Some(vsock) = &self.vsock {
                vsock.write(w, to);
            }
        });
    }
}
