//! Disks and drives.

use super::{As, take_tail};
use crate::domain::address::Address;
use crate::domain::words::words;
use crate::xml::{Element, Malformed, Writer};

/// A disk or a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What it is to the guest.
    pub device: DiskDevice,
    /// How QEMU reads and writes it.
    pub driver: DiskDriver,
    /// What holds its content; a drive may be empty.
    pub source: Option<DiskSource>,
    /// Its name, which says its place on the bus: `vda`, `sdb`.
    pub target: String,
    /// The bus.
    pub bus: DiskBus,
    /// Whether the guest may not write it.
    pub readonly: bool,
    /// Whether several guests may write it at once.
    pub shareable: bool,
    /// What the guest reads as its serial number.
    pub serial: Option<String>,
    /// Its place among the devices to boot from, from 1.
    pub boot_order: Option<u32>,
    /// Where it is on the bus.
    pub address: Option<Address>,
}

words! {
    /// What a disk is to the guest.
    pub enum DiskDevice {
        /// A disk.
        Disk = "disk",
        /// A drive for CDs.
        Cdrom = "cdrom",
    }
}

words! {
    /// The bus of a disk.
    pub enum DiskBus {
        /// A device of its own on the PCI bus.
        Virtio = "virtio",
        /// IDE.
        Ide = "ide",
        /// SATA.
        Sata = "sata",
        /// SCSI.
        Scsi = "scsi",
    }
}

/// How QEMU reads and writes a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDriver {
    /// The form of the content.
    pub format: DiskFormat,
    /// What the host caches.
    pub cache: Option<Cache>,
    /// How it is read and written.
    pub io: Option<DiskIo>,
    /// What becomes of blocks that the guest gives back.
    pub discard: Option<Discard>,
}

words! {
    /// The form of a disk's content.
    pub enum DiskFormat {
        /// The content itself.
        Raw = "raw",
        /// QEMU's own form.
        Qcow2 = "qcow2",
    }
}

words! {
    /// What the host caches of a disk.
    pub enum Cache {
        /// QEMU's default.
        Default = "default",
        /// Nothing.
        None = "none",
        /// What is read, and what is written after it is written.
        Writethrough = "writethrough",
        /// What is read and what is written.
        Writeback = "writeback",
        /// Nothing, and each write is waited for.
        Directsync = "directsync",
        /// All, and flushes are ignored.
        Unsafe = "unsafe",
    }
}

words! {
    /// How a disk is read and written.
    pub enum DiskIo {
        /// By threads.
        Threads = "threads",
        /// By the kernel's old interface.
        Native = "native",
        /// By io_uring.
        IoUring = "io_uring",
    }
}

words! {
    /// What becomes of blocks that the guest gives back.
    pub enum Discard {
        /// They stay.
        Ignore = "ignore",
        /// They are given back to the file system.
        Unmap = "unmap",
    }
}

/// What holds a disk's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// A file.
    File(String),
    /// A block device.
    Block(String),
}

impl DiskSource {
    /// The path on the host.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::File(path) | Self::Block(path) => path,
        }
    }
}

impl Disk {
    /// The number that the name of the target stands for: `vda` is 0, `vdb` 1, `vdaa` 26.
    #[must_use]
    pub fn index(&self) -> Option<u32> {
        let letters = self.target.get(2..)?;
        let mut index: u32 = 0;
        for c in letters.chars() {
            let digit = u32::from(c)
                .checked_sub(u32::from('a'))
                .filter(|d| *d < 26)?;
            index = index.checked_mul(26)?.checked_add(digit + 1)?;
        }
        index.checked_sub(1)
    }

    /// The name of the device in QEMU.
    #[must_use]
    pub fn alias(&self) -> String {
        match (self.bus, &self.address) {
            (
                DiskBus::Scsi,
                Some(Address::Drive {
                    controller,
                    bus,
                    target,
                    unit,
                }),
            ) => {
                format!("scsi{controller}-{bus}-{target}-{unit}")
            }
            (
                bus,
                Some(Address::Drive {
                    controller,
                    bus: channel,
                    unit,
                    ..
                }),
            ) => {
                format!("{bus}{controller}-{channel}-{unit}")
            }
            (bus, _) => format!("{bus}-disk{}", self.index().unwrap_or(0)),
        }
    }

    pub(super) fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        let block = match element.attribute("type") {
            None | Some("file") => false,
            Some("block") => true,
            Some(_) => return Err(element.unknown()),
        };
        let device = element
            .read("device", DiskDevice::from_word)?
            .unwrap_or(DiskDevice::Disk);
        if let Some(mut store) = element.child("backingStore")? {
            store.attribute("index");
            store.finish()?;
        }
        let driver = match element.child("driver")? {
            Some(driver) => DiskDriver::read(driver)?,
            None => DiskDriver {
                format: DiskFormat::Raw,
                cache: None,
                io: None,
                discard: None,
            },
        };
        let source = element
            .child("source")?
            .map(|s| read_source(s, block))
            .transpose()?
            .flatten();
        let mut target = element.child_required("target")?;
        let name = target.required("dev")?.to_owned();
        let bus = target.read("bus", DiskBus::from_word)?;
        if target
            .attribute("tray")
            .is_some_and(|tray| tray != "closed")
        {
            return Err(target.unknown());
        }
        let by_name = match name.get(..2) {
            Some("vd") => DiskBus::Virtio,
            Some("hd") => DiskBus::Ide,
            Some("sd") => DiskBus::Scsi,
            _ => return Err(target.invalid(name)),
        };
        target.finish()?;
        let readonly = element.mark("readonly")? || device == DiskDevice::Cdrom;
        let shareable = element.mark("shareable")?;
        let serial = element.text_of("serial")?;
        let boot_order = read_boot(&mut element)?;
        let address = take_tail(&mut element)?;
        let disk = Self {
            device,
            driver,
            source,
            target: name,
            bus: bus.unwrap_or(by_name),
            readonly,
            shareable,
            serial,
            boot_order,
            address,
        };
        if disk.index().is_none() {
            return Err(element.invalid(disk.target));
        }
        if disk.source.is_none() && device == DiskDevice::Disk {
            return Err(Malformed::Missing(format!("{}/source", element.path())));
        }
        element.finish()?;
        Ok(disk)
    }

    pub(super) fn write(&self, w: &mut Writer, to: As, at: usize) {
        let kind = match self.source {
            Some(DiskSource::Block(_)) => "block",
            _ => "file",
        };
        w.element("disk")
            .attribute("type", kind)
            .attribute("device", self.device)
            .body(|w| {
                w.element("driver")
                    .attribute("name", "qemu")
                    .attribute("type", self.driver.format)
                    .attribute_of("cache", self.driver.cache)
                    .attribute_of("io", self.driver.io)
                    .attribute_of("discard", self.driver.discard)
                    .empty();
                if let Some(source) = &self.source {
                    let name = if kind == "block" { "dev" } else { "file" };
                    let index = to.live.then_some(at + 1);
                    let tag = w.element("source").attribute(name, source.path());
                    tag.attribute_of("index", index).empty();
                    w.mark("backingStore", to.live);
                }
                w.element("target")
                    .attribute("dev", &self.target)
                    .attribute("bus", self.bus)
                    .empty();
                w.mark("readonly", self.readonly);
                w.mark("shareable", self.shareable);
                w.text_of("serial", self.serial.as_ref());
                write_boot(w, self.boot_order);
                to.tail(w, || self.alias(), self.address.as_ref());
            });
    }
}

impl DiskDriver {
    fn read(mut element: Element<'_>) -> Result<Self, Malformed> {
        if element.attribute("name").is_some_and(|name| name != "qemu") {
            return Err(element.unknown());
        }
        let driver = Self {
            format: element
                .read("type", DiskFormat::from_word)?
                .unwrap_or(DiskFormat::Raw),
            cache: element.read("cache", Cache::from_word)?,
            io: element.read("io", DiskIo::from_word)?,
            discard: element.read("discard", Discard::from_word)?,
        };
        element.finish()?;
        Ok(driver)
    }
}

fn read_source(mut element: Element<'_>, block: bool) -> Result<Option<DiskSource>, Malformed> {
    element.attribute("index");
    let name = if block { "dev" } else { "file" };
    let path = element.attribute(name).map(str::to_owned);
    element.finish()?;
    Ok(path.map(if block {
        DiskSource::Block
    } else {
        DiskSource::File
    }))
}

/// Takes a device's place among those to boot from.
pub(super) fn read_boot(element: &mut Element<'_>) -> Result<Option<u32>, Malformed> {
    let Some(mut boot) = element.child("boot")? else {
        return Ok(None);
    };
    let order = boot.read_required("order", |v| v.parse().ok().filter(|n| *n > 0))?;
    boot.finish()?;
    Ok(Some(order))
}

/// Writes a device's place among those to boot from.
pub(super) fn write_boot(w: &mut Writer, order: Option<u32>) {
    if let Some(order) = order {
        w.element("boot").attribute("order", order).empty();
    }
}
