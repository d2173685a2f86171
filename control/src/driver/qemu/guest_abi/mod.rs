//! The guest ABI: the machine as the guest sees it, to be compared before anything is sent.
//!
//! QEMU compares little of it. A guest whose CPU has lost a flag goes on until it uses it; one whose
//! devices differ is refused by QEMU, in words that name no option, once all memory was sent. So
//! each side describes its machine in [details](GuestProperty::detail), each named by the option or
//! the device that it comes from, and the target refuses what differs.
//!
//! | part | from |
//! |---|---|
//! | `CPU model`, `CPU flags`, `CPU` | QOM properties of the first vCPU, which are what is left of `-cpu` after the accelerator has taken out what it or the host cannot do |
//! | `-smp`, `vCPUs` | the machine's topology, and the vCPUs that are plugged in |
//! | `-m`, `memory device at` | `maxmem`, `slots`, and DIMMs with their addresses |
//! | `-machine` | options of the machine |
//! | `device` | the tree of devices on buses with the options of each |
//!
//! What lies behind a device (a file, a chardev, a network back end) may differ and is left out, as
//! is all that the guest's own work changes. The accelerator is left out too, but its flags count.

mod cpu;
mod devices;
mod machine;
mod x86;

use pagelift_engine::wire::GuestProperty;

use crate::qmp::{Qmp, QmpError};

/// The machine in details. Some 70 commands, one after the other.
///
/// # Errors
/// As QMP's.
pub(super) fn details(qmp: &Qmp) -> Result<Vec<GuestProperty>, QmpError> {
    let mut details = cpu::details(qmp)?;
    details.extend(machine::details(qmp)?);
    details.extend(devices::details(&qmp.human("info qtree")?));
    Ok(details)
}

/// Name and type of the QOM properties at `path`.
fn listed(qmp: &Qmp, path: &str) -> Result<Vec<(String, String)>, QmpError> {
    let listed = qmp.execute("qom-list", serde_json::json!({ "path": path }))?;
    let entry = |entry: &serde_json::Value| {
        let text = |key: &str| Some(entry.get(key)?.as_str()?.to_owned());
        Some((text("name")?, text("type")?))
    };
    let entries = listed.as_array().into_iter().flatten();
    Ok(entries.filter_map(entry).collect())
}

/// The values of the QOM properties `names` at `path`, without those that cannot be read.
///
/// One after the other: of QEMU 10.0.2, to which many were sent at once, one answer in some thousands
/// did not come (seen once in 5,000).
fn values(
    qmp: &Qmp,
    path: &str,
    names: Vec<String>,
) -> Result<Vec<(String, serde_json::Value)>, QmpError> {
    let mut values = Vec::new();
    for name in names {
        if let Some(value) = one(qmp, path, &name)? {
            values.push((name, value));
        }
    }
    Ok(values)
}

/// The value of a QOM property; `None` if there is none or it cannot be read.
fn one(qmp: &Qmp, path: &str, name: &str) -> Result<Option<serde_json::Value>, QmpError> {
    let arguments = serde_json::json!({ "path": path, "property": name });
    match qmp.execute("qom-get", arguments) {
        Ok(value) => Ok(Some(value)),
        Err(QmpError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A value as an entry has it: a text without its quotes.
fn plain(value: &serde_json::Value) -> String {
    match value.as_str() {
        Some(text) => text.replace(['\n', '\r'], " "),
        None => value.to_string(),
    }
}
