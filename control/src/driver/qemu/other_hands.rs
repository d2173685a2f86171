//! Other hands on the same QEMU: migrations, snapshots, block jobs and hotplug that are not ours.
//!
//! QEMU has one migration at a time, one set of migration capabilities, and no owner of either. So
//! ours gives way: what somebody else has begun goes on as if we were not there, and our migration
//! ends with its name. That needs two things. Capabilities are as others left them until the moment
//! of our own `migrate` (see [`settings`](super::settings)): a `savevm` or a save to a file under
//! `x-ignore-shared` would be without its RAM. And somebody must look: QEMU has no event for a
//! migration of others (the capability `events` is off), nor for a device that is plugged in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::backend;
use super::inspect::run_state;
use crate::qmp::{Qmp, QmpError};

/// Where devices are that somebody plugs in: with an id, and without one.
const CONTAINERS: [&str; 2] = ["/machine/peripheral", "/machine/peripheral-anon"];

/// Block jobs that QEMU does not hand a disk over under (`backup`, `commit`), or that would never
/// end (`stream` and a `mirror` that is not ready).
///
/// QEMU 10.0.2 itself goes on under the latter, and leaves their work half done.
///
/// # Errors
/// As QMP's.
pub(super) fn block_jobs(qmp: &Qmp) -> Result<Vec<String>, QmpError> {
    let jobs = qmp.execute("query-block-jobs", Value::Null)?;
    Ok(jobs
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(in_the_way)
        .collect())
}

/// The name of a job that a guest cannot move under.
fn in_the_way(job: &Value) -> Option<String> {
    let (id, kind) = (job["device"].as_str()?, job["type"].as_str()?);
    let may_stay = kind == "mirror" && job["ready"] == true;
    (!may_stay).then(|| format!("block job {id} ({kind})"))
}

/// Devices that were plugged in, by name, with their types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices(BTreeMap<String, String>);

impl Devices {
    /// Those that are there now.
    ///
    /// # Errors
    /// As QMP's.
    pub fn list(qmp: &Qmp) -> Result<Self, QmpError> {
        let mut devices = BTreeMap::new();
        for container in CONTAINERS {
            devices.extend(backend::children(qmp, container)?);
        }
        Ok(Self(devices))
    }

    /// What has changed until `now`, in words.
    fn change(&self, now: &Self) -> Option<String> {
        let only = |these: &Self, those: &Self| {
            let only = these
                .0
                .iter()
                .filter(|(name, _)| !those.0.contains_key(*name));
            only.map(|(name, kind)| format!("{name} ({kind})"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let mut words = String::new();
        for (these, those, what) in [(now, self, "plugged in"), (self, now, "unplugged")] {
            let devices = only(these, those);
            if !devices.is_empty() {
                let start = if words.is_empty() {
                    "device "
                } else {
                    "; device "
                };
                // Writing to a text does not fail.
                let _ = write!(words, "{start}{devices} was {what}");
            }
        }
        (!words.is_empty()).then(|| format!("{words}; do so at the target's QEMU, and send again"))
    }
}

/// What others have done to a guest that had `devices` when its move began, and for which it is to
/// stay, in words. To be asked only while no migration of ours runs.
///
/// # Errors
/// As QMP's.
pub fn found(qmp: &Qmp, devices: &Devices) -> Result<Option<String>, QmpError> {
    let state = run_state(qmp)?;
    let info = qmp.execute("query-migrate", Value::Null)?;
    if let Some(words) = foreign(&state, info["status"].as_str().unwrap_or("none")) {
        return Ok(Some(words));
    }
    Ok(devices.change(&Devices::list(qmp)?))
}

/// Words for a guest whose run state or migration is somebody else's doing.
fn foreign(state: &str, migration: &str) -> Option<String> {
    match (state, migration) {
        // A snapshot: the guest stands still meanwhile, and goes on.
        ("save-vm" | "restore-vm", _) => None,
        ("postmigrate", _) => Some(
            "somebody else's migration has taken it away (its state is \"postmigrate\"); 'cont' \
             brings it back, if it does not run elsewhere"
                .into(),
        ),
        ("colo" | "inmigrate" | "internal-error" | "preconfig", _) => Some(format!(
            "its state has become {state:?}; bring it to 'running' or 'paused' first"
        )),
        (_, "none" | "cancelled" | "completed" | "failed") => None,
        (_, status) => Some(format!(
            "somebody else has begun a migration of it (its status is {status:?}), which goes on; \
             send again when that has ended"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn devices(list: &[(&str, &str)]) -> Devices {
        let pairs = list
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned()));
        Devices(pairs.collect())
    }

    #[test]
    fn a_ready_mirror_alone_is_not_in_the_way() {
        let job = |kind: &str, ready: bool| {
            in_the_way(&json!({ "device": "j0", "type": kind, "ready": ready }))
        };
        assert_eq!(job("mirror", true), None);
        assert_eq!(job("mirror", false).unwrap(), "block job j0 (mirror)");
        for kind in ["backup", "commit", "stream"] {
            assert!(job(kind, true).is_some() && job(kind, false).is_some());
        }
    }

    #[test]
    fn devices_that_come_and_go_are_named() {
        let before = devices(&[("n0", "e1000"), ("r0", "virtio-rng-pci")]);
        assert_eq!(before.change(&before), None);
        let after = devices(&[("n0", "e1000"), ("d1", "pc-dimm")]);
        assert_eq!(
            before.change(&after).unwrap(),
            "device d1 (pc-dimm) was plugged in; device r0 (virtio-rng-pci) was unplugged; do so \
             at the target's QEMU, and send again"
        );
    }

    #[test]
    fn a_migration_of_others_is_told_from_one_that_is_over() {
        for status in ["none", "cancelled", "completed", "failed"] {
            assert_eq!(foreign("running", status), None);
        }
        for status in ["setup", "active", "device", "pre-switchover", "cancelling"] {
            let words = foreign("running", status).unwrap();
            assert!(words.contains("somebody else") && words.contains(status));
            assert_eq!(foreign("save-vm", status), None, "a snapshot");
        }
        assert!(
            foreign("postmigrate", "completed")
                .unwrap()
                .contains("taken it away")
        );
        assert!(foreign("internal-error", "none").is_some());
        assert_eq!(foreign("paused", "none"), None);
    }
}
