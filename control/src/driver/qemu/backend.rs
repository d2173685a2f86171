//! QEMU's memory backends: the `-object memory-backend-...` a guest's RAM comes from.

use serde_json::{Value, json};

use crate::qmp::{Qmp, QmpError};

/// A memory backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its id, and the name of its RAM block.
    pub id: String,
    /// Its type: `memory-backend-file`, `-ram`, `-memfd`, ...
    pub kind: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// `share=on`: writes reach the file.
    pub share: bool,
    /// The file's name as given to QEMU; for `memory-backend-file` only.
    pub path: Option<String>,
    /// `pmem=on`: the file is persistent memory.
    pub pmem: bool,
    /// `readonly=on`.
    pub readonly: bool,
    /// Whether QEMU empties the file when it ends (`discard-data=on`).
    pub discards_data: bool,
}

impl Backend {
    /// Whether this is the backend behind a RAM block of that name.
    ///
    /// The name is the id, after the path of the device that owns the block if that has one
    /// (`0000:00:03.0/ID`), or the backend's canonical path (`/objects/ID`) for machine types older
    /// than 4.0 (its property `x-use-canonical-path-for-ramblock-id`).
    pub fn is_block(&self, name: &str) -> bool {
        let before = name.strip_suffix(self.id.as_str());
        before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    }

    /// Whether QEMU's `x-ignore-shared` leaves it alone, in every version that has it.
    ///
    /// Since 8.1 only `memory-backend-file` with `share=on` qualifies, read-only or not.
    pub fn is_left_alone(&self) -> bool {
        self.kind == "memory-backend-file" && self.share
    }
}

/// All memory backends of a QEMU, sorted by id.
///
/// # Errors
/// As QMP's.
pub fn list(qmp: &Qmp) -> Result<Vec<Backend>, QmpError> {
    let missing = |missing: &str| QmpError::Unexpected {
        command: "query-memdev".into(),
        missing: missing.into(),
    };
    let kinds = children(qmp, "/objects")?;
    let devices = qmp.execute("query-memdev", Value::Null)?;
    let mut backends = Vec::new();
    for device in devices.as_array().ok_or_else(|| missing("a list"))? {
        // A backend without an id cannot be asked about, and no command line makes one.
        let Some(id) = device.get("id").and_then(Value::as_str) else {
            continue;
        };
        let object = format!("/objects/{id}");
        let kind = kinds.iter().find(|(name, _)| name == id);
        let kind = kind.map_or_else(String::new, |(_, kind)| kind.clone());
        let property = |name: &str| {
            let value = qmp.execute("qom-get", json!({ "path": object, "property": name }));
            match value {
                Ok(value) => Ok(value),
                // Which properties there are differs by type and version.
                Err(QmpError::Refused { .. }) => Ok(Value::Null),
                Err(error) => Err(error),
            }
        };
        let flag = |value: Value| value.as_bool().unwrap_or(false);
        backends.push(Backend {
            bytes: device
                .get("size")
                .and_then(Value::as_u64)
                .ok_or_else(|| missing("size"))?,
            share: device
                .get("share")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            path: property("mem-path")?.as_str().map(str::to_owned),
            pmem: flag(property("pmem")?),
            readonly: flag(property("readonly")?),
            discards_data: flag(property("discard-data")?),
            id: id.to_owned(),
            kind,
        });
    }
    backends.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(backends)
}

/// Where QEMU keeps its devices: with an id, without one, and made by the board or by -drive.
const CONTAINERS: [&str; 3] = [
    "/machine/peripheral",
    "/machine/peripheral-anon",
    "/machine/unattached",
];

/// QOM path and type of the devices whose type `wanted` accepts.
///
/// # Errors
/// As QMP's.
pub fn of_type(
    qmp: &Qmp,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<(String, String)>, QmpError> {
    let mut found = Vec::new();
    for container in CONTAINERS {
        let devices = children(qmp, container)?.into_iter();
        let devices = devices.filter(|(_, kind)| wanted(kind));
        found.extend(devices.map(|(name, kind)| (format!("{container}/{name}"), kind)));
    }
    Ok(found)
}

/// Name and type of the objects below a QOM path.
///
/// # Errors
/// As QMP's; a path that does not exist is [`QmpError::Refused`].
pub fn children(qmp: &Qmp, path: &str) -> Result<Vec<(String, String)>, QmpError> {
    let listed = qmp.execute("qom-list", json!({ "path": path }))?;
    let child = |entry: &Value| {
        let name = entry.get("name")?.as_str()?;
        let kind = entry.get("type")?.as_str()?;
        let kind = kind.strip_prefix("child<")?.strip_suffix('>')?;
        Some((name.to_owned(), kind.to_owned()))
    };
    Ok(listed
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(child)
        .collect())
}

/// Ids of the backends of persistent memory, sorted.
///
/// # Errors
/// As QMP's.
pub fn persistent(qmp: &Qmp, backends: &[Backend]) -> Result<Vec<String>, QmpError> {
    let devices = qmp.execute("query-memory-devices", Value::Null)?;
    let devices = devices.as_array().into_iter().flatten();
    let modules = devices.filter(|device| {
        let kind = device["type"].as_str();
        kind.is_some_and(|kind| matches!(kind, "nvdimm" | "virtio-pmem"))
    });
    let memory: Vec<_> = modules
        .filter_map(|device| device["data"]["memdev"].as_str())
        .collect();
    let is_persistent = |backend: &&Backend| {
        let path = format!("/objects/{}", backend.id);
        backend.pmem || memory.contains(&path.as_str())
    };
    let found = backends.iter().filter(is_persistent);
    Ok(found.map(|backend| backend.id.clone()).collect())
}

/// Whether the RAM block of this name is persistent memory: of one of the backends `persistent`.
pub fn is_persistent_block(name: &str, backends: &[Backend], persistent: &[String]) -> bool {
    let backend = backends.iter().find(|backend| backend.is_block(name));
    backend.is_some_and(|backend| persistent.contains(&backend.id))
}
