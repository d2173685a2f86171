//! The tree of devices, from the human monitor's `info qtree`.
//!
//! QMP can give the same in some thousand commands. A bus is a line `bus: NAME`, a device below it
//! `dev: TYPE, id "ID"`, an option of a device `name = value`; what is below is two or four columns
//! further right (QEMU 8 to 10). Lines of other forms tell the guest's own doing: addresses that it
//! has given to a device.
//!
//! A device is named by where it sits, as the guest finds it: the PCI addresses from the root to it,
//! or its type and place on another bus. Ids are for QEMU's users and may differ.

use pagelift_engine::wire::GuestProperty;

/// Options that name something behind a device, or how QEMU serves it; and state.
const UNSEEN: [&str; 32] = [
    "MCFG",
    "account-failed",
    "account-invalid",
    "audiodev",
    "busnr",
    "chardev",
    "cryptodev",
    "cyls",
    "discard_granularity",
    "drive",
    "ebpf-rss-fds",
    "failover_pair_id",
    "fsdev",
    "heads",
    "ioeventfd",
    "iothread",
    "iothread-vq-mapping",
    "memdev",
    "netdev",
    "page-poison",
    "queues-pair",
    "rerror",
    "rng",
    "romfile",
    "romsize",
    "secs",
    "share-rw",
    "smb_io_base",
    "stats-intervals",
    "use-disabled-flag",
    "use-started",
    "werror",
];

/// Options that say where on its bus a device sits.
const PLACES: [&str; 7] = ["channel", "scsi-id", "lun", "unit", "port", "nr", "slot"];

#[derive(Debug)]
struct Device<'a> {
    /// Index of the device that its bus belongs to.
    parent: Option<usize>,
    /// Name of its bus.
    bus: &'a str,
    kind: &'a str,
    options: Vec<(&'a str, &'a str)>,
}

/// Every device as a detail.
pub(super) fn details(listing: &str) -> Vec<GuestProperty> {
    let devices = parse(listing);
    let mut places: Vec<String> = Vec::new();
    let mut details = Vec::new();
    for device in &devices {
        let place = place(device, device.parent.map(|parent| places[parent].as_str()));
        // A host bridge is where all begins; its type is told by the machine's.
        let twins = places.iter().filter(|other| **other == place).count();
        let name = match twins {
            0 => format!("device {place}"),
            twins => format!("device {place} #{}", twins + 1),
        };
        let seen = device.options.iter().filter(|(key, value)| {
            !UNSEEN.contains(key) && !key.starts_with("x-") && *value != "auto"
        });
        let entries = seen.map(|(key, value)| format!("{key}={value}"));
        let entries = std::iter::once(device.kind.to_owned()).chain(entries);
        details.push(GuestProperty::detail(name, entries));
        places.push(place);
    }
    details
}

/// Where a device sits, in words.
fn place(device: &Device<'_>, parent: Option<&str>) -> String {
    let option = |name: &str| {
        let found = device.options.iter().find(|(key, _)| *key == name);
        found
            .map(|(_, value)| *value)
            .filter(|value| !value.is_empty())
    };
    let own = match option("addr") {
        Some(address) => address.to_owned(),
        None => {
            let mut own = device.kind.to_owned();
            // Of two buses of one device, as of an IDE controller.
            if let Some((_, number)) = device.bus.rsplit_once('.') {
                own.push_str(&format!(" bus={number}"));
            }
            for name in PLACES {
                if let Some(value) = option(name) {
                    own.push_str(&format!(" {name}={value}"));
                }
            }
            own
        }
    };
    match parent {
        Some(parent) if !parent.ends_with("pcihost") => format!("{parent}/{own}"),
        _ => own,
    }
}

fn parse(listing: &str) -> Vec<Device<'_>> {
    let mut devices: Vec<Device<'_>> = Vec::new();
    // Buses and devices that are open, by their column.
    let mut buses: Vec<(usize, &str)> = Vec::new();
    let mut open: Vec<(usize, usize)> = Vec::new();
    for line in listing.lines() {
        let text = line.trim_start();
        let column = line.len() - text.len();
        if let Some(name) = text.strip_prefix("bus: ") {
            buses.retain(|(at, _)| *at < column);
            open.retain(|(at, _)| *at < column);
            buses.push((column, name.trim_end()));
        } else if let Some(rest) = text.strip_prefix("dev: ") {
            buses.retain(|(at, _)| *at < column);
            open.retain(|(at, _)| *at < column);
            let kind = rest.split_once(", id ").map_or(rest, |(kind, _)| kind);
            devices.push(Device {
                parent: open.last().map(|(_, index)| *index),
                bus: buses.last().map_or("", |(_, name)| *name),
                kind,
                options: Vec::new(),
            });
            open.push((column, devices.len() - 1));
        } else if let (Some((key, value)), Some(device)) =
            (text.split_once(" = "), devices.last_mut())
        {
            device.options.push((key, unquoted(value)));
        }
    }
    devices
}

/// A value without its quotes, or without the same number in another form behind it.
fn unquoted(value: &str) -> &str {
    let value = value.trim_end();
    match value.strip_prefix('"') {
        Some(text) => text.strip_suffix('"').unwrap_or(text),
        None => value.split_once(" (").map_or(value, |(number, _)| number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 10.0.2 prints it, shortened.
    const LISTING: &str = r#"
bus: main-system-bus
  type System
  dev: ps2-kbd, id ""
    gpio-out "" 1
  dev: i440FX-pcihost, id ""
    pci-hole64-size = 2147483648 (2 GiB)
    bus: pci.0
      type PCI
      dev: virtio-net-pci, id "n0"
        vectors = 4 (0x4)
        ioeventfd = true
        x-pcie-pm-init = true
        disable-legacy = "auto"
        addr = 02.0
        romfile = "efi-virtio.rom"
        busnr = 0 (0x0)
        class Ethernet controller, addr 00:02.0, pci id 1af4:1000 (sub 1af4:0001)
        bar 0: i/o at 0xffffffffffffffff [0x1e]
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-net-device, id ""
            mac = "52:54:00:12:34:56"
            netdev = "u0"
      dev: piix3-ide, id ""
        addr = 01.1
        bus: ide.1
          type IDE
          dev: ide-hd, id ""
            unit = 0 (0x0)
        bus: ide.0
          type IDE
          dev: ide-hd, id ""
            unit = 0 (0x0)
      dev: smbus-eeprom, id ""
        address = 87 (0x57)
      dev: smbus-eeprom, id ""
        address = 86 (0x56)
"#;

    #[test]
    fn devices_are_named_by_where_they_sit() {
        let details = details(LISTING);
        let all: Vec<_> = details
            .iter()
            .map(|detail| (detail.name.as_str(), detail.value.as_str()))
            .collect();
        assert_eq!(
            all,
            [
                ("device ps2-kbd", "ps2-kbd"),
                (
                    "device i440FX-pcihost",
                    "i440FX-pcihost\npci-hole64-size=2147483648"
                ),
                ("device 02.0", "virtio-net-pci\nvectors=4\naddr=02.0"),
                (
                    "device 02.0/virtio-net-device",
                    "virtio-net-device\nmac=52:54:00:12:34:56"
                ),
                ("device 01.1", "piix3-ide\naddr=01.1"),
                ("device 01.1/ide-hd bus=1 unit=0", "ide-hd\nunit=0"),
                ("device 01.1/ide-hd bus=0 unit=0", "ide-hd\nunit=0"),
                ("device smbus-eeprom bus=0", "smbus-eeprom\naddress=87"),
                ("device smbus-eeprom bus=0 #2", "smbus-eeprom\naddress=86"),
            ]
        );
    }

    #[test]
    fn a_listing_of_another_kind_has_no_devices() {
        assert!(details("unknown command: 'info qtree'\r\n").is_empty());
    }
}
