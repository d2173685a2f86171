//! Disks and drives.

use pagelift_v3::domain::device::{Cache, Discard, Disk, DiskBus, DiskDevice, DiskSource};
use pagelift_v3::domain::{Address, Boot, Chipset};
use serde_json::{Value, json};

use super::{Args, Unsupported, merge, unsupported};

impl Args<'_> {
    pub(super) fn disks(&mut self) -> Result<(), Unsupported> {
        let domain = self.domain;
        for (at, disk) in domain.devices.disks.iter().enumerate() {
            let drive = disk
                .source
                .as_ref()
                .map(|source| self.block(at, disk, source));
            self.drive(disk, drive)?;
        }
        Ok(())
    }

    /// The file and its format; the name of the latter.
    fn block(&mut self, at: usize, disk: &Disk, source: &DiskSource) -> String {
        let driver = match source {
            DiskSource::File(_) => "file",
            DiskSource::Block(_) => "host_device",
        };
        let discard = match disk.driver.discard {
            Some(Discard::Unmap) => "unmap",
            Some(Discard::Ignore) | None => "ignore",
        };
        let (direct, no_flush) = match disk.driver.cache {
            Some(Cache::None | Cache::Directsync) => (true, false),
            Some(Cache::Unsafe) => (false, true),
            _ => (false, false),
        };
        let name = |part| format!("libvirt-{}-{part}", at + 1);
        let common = json!({
            "read-only": disk.readonly,
            "discard": discard,
            "cache": { "direct": direct, "no-flush": no_flush },
        });
        let mut storage = json!({
            "driver": driver,
            "filename": source.path(),
            "node-name": name("storage"),
            "auto-read-only": true,
            "aio": disk.driver.io.map(|io| io.word()),
        });
        if storage["aio"].is_null() {
            storage = json!({
                "driver": driver,
                "filename": source.path(),
                "node-name": name("storage"),
                "auto-read-only": true,
            });
        }
        merge(&mut storage, common.clone());
        let mut format = json!({
            "driver": disk.driver.format.word(),
            "node-name": name("format"),
            "file": name("storage"),
        });
        merge(&mut format, common);
        self.json("-blockdev", &storage);
        self.json("-blockdev", &format);
        name("format")
    }

    fn drive(&mut self, disk: &Disk, drive: Option<String>) -> Result<(), Unsupported> {
        let id = disk.alias();
        let write_cache = match disk.driver.cache {
            Some(Cache::Writethrough | Cache::Directsync) => "off",
            _ => "on",
        };
        let is_disk = disk.device == DiskDevice::Disk;
        let mut more = json!({
            "drive": drive,
            "serial": disk.serial,
            "bootindex": self.boot_index(disk),
            "share-rw": disk.shareable.then_some(true),
            "write-cache": is_disk.then_some(write_cache),
        });
        let (driver, place) = match (disk.bus, is_disk) {
            (DiskBus::Virtio, true) => {
                return self.device("virtio-blk-pci", &id, disk.address.as_ref(), more);
            }
            (DiskBus::Virtio, false) => {
                return unsupported(format!("{}: no CD-ROM drive is virtio", disk.target));
            }
            (DiskBus::Ide | DiskBus::Sata, true) => ("ide-hd", self.ide_place(disk)?),
            (DiskBus::Ide | DiskBus::Sata, false) => ("ide-cd", self.ide_place(disk)?),
            (DiskBus::Scsi, true) => ("scsi-hd", scsi_place(disk)?),
            (DiskBus::Scsi, false) => ("scsi-cd", scsi_place(disk)?),
        };
        merge(&mut more, place);
        self.device(driver, &id, None, more)
    }

    fn ide_place(&self, disk: &Disk) -> Result<Value, Unsupported> {
        let (controller, bus, _, unit) = drive_address(disk)?;
        let q35 = self.domain.os.chipset() == Some(Chipset::Q35);
        Ok(match (disk.bus, controller) {
            (DiskBus::Ide, 0) if !q35 => json!({ "bus": format!("ide.{bus}"), "unit": unit }),
            (DiskBus::Sata, 0) if q35 => json!({ "bus": format!("ide.{unit}") }),
            (DiskBus::Sata, _) => json!({ "bus": format!("sata{controller}.{unit}") }),
            _ => return unsupported(format!("{}: there is no such controller", disk.target)),
        })
    }

    /// The place of a disk among what is booted: its own, or that of its kind.
    fn boot_index(&self, disk: &Disk) -> Option<u32> {
        if disk.boot_order.is_some() {
            return disk.boot_order;
        }
        let kind = match disk.device {
            DiskDevice::Disk => Boot::Disk,
            DiskDevice::Cdrom => Boot::Cdrom,
        };
        let mut same = self
            .domain
            .devices
            .disks
            .iter()
            .filter(|d| d.device == disk.device);
        let is_first = same.next().is_some_and(|first| first.target == disk.target);
        let place = self.domain.os.boot.iter().position(|boot| *boot == kind)?;
        is_first.then_some(u32::try_from(place).ok()? + 1)
    }
}

fn scsi_place(disk: &Disk) -> Result<Value, Unsupported> {
    let (controller, channel, target, unit) = drive_address(disk)?;
    Ok(json!({
        "bus": format!("scsi{controller}.0"),
        "channel": channel,
        "scsi-id": target,
        "lun": unit,
    }))
}

fn drive_address(disk: &Disk) -> Result<(u32, u32, u32, u32), Unsupported> {
    match disk.address {
        Some(Address::Drive {
            controller,
            bus,
            target,
            unit,
        }) => Ok((controller, bus, target, unit)),
        _ => unsupported(format!("{}: its address is none of a drive", disk.target)),
    }
}
