//! Devices by which QEMU discards pages of the guest's RAM while the guest runs.
//!
//! A discarded page becomes a hole in the RAM file, and zero. Such holes are looked for in every
//! harvest, so that they arrive as holes (docs/decisions/079, 068): where there is virtio-mem or free
//! page reporting, and from the time on that a balloon is in use. That takes ordinary pages: holes in huge
//! pages cannot be told. Then only what the guest relies on matters: a page that it reported as free is
//! zero when it is used again, while nothing is said of a page that comes back from a balloon or is
//! plugged in by virtio-mem.
//!
//! Free page hints are another thing: during a migration of QEMU's the guest names pages that need not be
//! sent. QEMU 10.0.2 crashes, and the guest with it, when these are of RAM that is left to others.

use serde_json::{Value, json};

use super::devices::name_of;
use crate::driver::Refusal;
use crate::driver::qemu::backend;
use crate::driver::qemu::inspect::Guest;
use crate::driver::qemu::ramblock::Listed;
use crate::qmp::{Qmp, QmpError};

/// When pages of a guest's RAM may be discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discards {
    /// Never, or it makes no difference.
    Never,
    /// Once the balloon [is in use](balloon_is_in_use).
    ByBalloon,
    /// At any time.
    Always,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    Balloon,
    /// A balloon with free page reporting: the guest relies on such pages being zero.
    Reporting,
    /// A balloon with free page hints.
    Hinting,
    VirtioMem,
}

/// When pages of the guest's RAM may be discarded, so that they are to be looked for.
///
/// # Errors
/// As QMP's.
pub fn discards(qmp: &Qmp, guest: &Guest) -> Result<Discards, QmpError> {
    let devices = devices(qmp)?;
    Ok(if devices.is_empty() || huge(&guest.ram).is_some() {
        Discards::Never
    } else if devices.iter().all(|(_, device)| *device == Device::Balloon) {
        Discards::ByBalloon
    } else {
        Discards::Always
    })
}

/// Whether a balloon holds pages of the guest's.
///
/// # Errors
/// As QMP's.
pub fn balloon_is_in_use(qmp: &Qmp) -> Result<bool, QmpError> {
    let balloon = qmp.execute("query-balloon", Value::Null)?;
    let memory = qmp.execute("query-memory-size-summary", Value::Null)?;
    let devices = qmp.execute("query-memory-devices", Value::Null)?;
    let devices = devices.as_array().into_iter().flatten();
    let dimms = devices.filter(|device| device["type"] == "dimm");
    let plugged: u64 = dimms.filter_map(|dimm| dimm["data"]["size"].as_u64()).sum();
    let all = memory["base-memory"].as_u64().unwrap_or(0) + plugged;
    Ok(balloon["actual"].as_u64() != Some(all))
}

pub(super) fn check(qmp: &Qmp, guest: &Guest) -> Result<Vec<Refusal>, QmpError> {
    let refusals = devices(qmp)?
        .into_iter()
        .filter_map(|(name, device)| check_device(&name, device, &guest.ram));
    Ok(refusals.collect())
}

/// The devices by which pages may be discarded, with their names.
fn devices(qmp: &Qmp) -> Result<Vec<(String, Device)>, QmpError> {
    let mut found = Vec::new();
    for (path, _) in backend::of_type(qmp, |kind| kind.starts_with("virtio-mem"))? {
        found.push((name_of(&path).to_owned(), Device::VirtioMem));
    }
    for (path, _) in backend::of_type(qmp, |kind| kind.starts_with("virtio-balloon"))? {
        let device = if is_on(qmp, &path, "free-page-hint")? {
            Device::Hinting
        } else if is_on(qmp, &path, "free-page-reporting")? {
            Device::Reporting
        } else {
            Device::Balloon
        };
        found.push((name_of(&path).to_owned(), device));
    }
    Ok(found)
}

/// Whether a device has this property, and it is on.
fn is_on(qmp: &Qmp, path: &str, property: &str) -> Result<bool, QmpError> {
    let arguments = json!({ "path": path, "property": property });
    match qmp.execute("qom-get", arguments) {
        Ok(value) => Ok(value == Value::Bool(true)),
        // A board's wrapper of the device may not have the property; the device itself does.
        Err(QmpError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn check_device(name: &str, device: Device, ram: &[Listed]) -> Option<Refusal> {
    match device {
        Device::Balloon | Device::VirtioMem => None,
        Device::Hinting => Some(Refusal::new(
            format!(
                "device {name} has free-page-hint=on, by which QEMU crashes when its RAM is left to others"
            ),
            "start the guest without it (free-page-reporting=on may stay), or unplug the device \
             (device_del)",
        )),
        Device::Reporting => huge(ram).map(|block| {
            Refusal::new(
                format!(
                    "device {name} reports free pages, and which of them were given back cannot be told \
                     in RAM block {} of huge pages",
                    block.name
                ),
                "start the guest with free-page-reporting=off",
            )
        }),
    }
}

/// A RAM block of huge pages.
fn huge(ram: &[Listed]) -> Option<&Listed> {
    ram.iter().find(|block| block.page_bytes > 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_pages_may_be_reported_where_holes_can_be_told() {
        let block = |page_bytes| Listed {
            name: "pc.ram".into(),
            page_bytes,
            used_bytes: 1 << 30,
            total_bytes: 1 << 30,
            address: 0,
        };
        let check = |device, ram: &[Listed]| check_device("b0", device, ram);
        assert_eq!(check(Device::Reporting, &[block(4096)]), None);
        let mixed = [block(4096), block(2 << 20)];
        let refusal = check(Device::Reporting, &mixed).unwrap();
        assert!(refusal.reason.starts_with("device b0 reports free pages"));
        for device in [Device::Balloon, Device::VirtioMem] {
            assert_eq!(check(device, &mixed), None);
        }
        let refusal = check(Device::Hinting, &[block(4096)]).unwrap();
        assert!(refusal.reason.contains("free-page-hint=on"));
    }
}
