//! Capabilities and parameters of QEMU's migration: set for ours, and put back afterwards.
//!
//! They are changed just before our own migration begins and not earlier: another hand's `migrate`,
//! save or snapshot while RAM is sent would otherwise be made with them, and have no RAM in it.
//!
//! Only what differs is changed, so a guest whose manager had set things up finds them as they
//! were. QEMU refuses to change capabilities while a migration runs, and for a moment after.

use std::time::{Duration, Instant};

use pagelift_agent_protocol::{Name, ParameterValue, RollbackStep};
use serde_json::{Map, Value, json};

use crate::driver::Side;
use crate::qmp::{Qmp, QmpError};

/// What direct mode needs; without any of them it cannot work.
pub const NEEDED: [&str; 4] = [
    "events",
    "pause-before-switchover",
    "return-path",
    "x-ignore-shared",
];

/// What contradicts them, or makes QEMU do what is the engine's work.
const UNWANTED: [&str; 11] = [
    "auto-converge",
    "background-snapshot",
    "dirty-limit",
    "mapped-ram",
    "multifd",
    "postcopy-preempt",
    "postcopy-ram",
    "rdma-pin-all",
    "release-ram",
    "x-colo",
    "zero-copy-send",
];

/// How long QEMU may go on refusing to put capabilities back.
const RESTORE_LIMIT: Duration = Duration::from_secs(5);
const RESTORE_PAUSE: Duration = Duration::from_millis(10);

/// The values as they were, of all that has to be changed, and what they are changed to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MigrationSettings {
    /// `migrate-set-capabilities`' list.
    capabilities: Vec<Value>,
    /// `migrate-set-parameters`' arguments.
    parameters: Map<String, Value>,
    wanted_capabilities: Vec<Value>,
    wanted_parameters: Map<String, Value>,
}

impl MigrationSettings {
    /// Looks up what has to be changed, and changes nothing.
    ///
    /// # Errors
    /// As QMP's.
    pub fn plan(qmp: &Qmp, side: Side) -> Result<Self, QmpError> {
        let mut plan = Self::default();
        for (name, state) in capabilities(qmp)? {
            let wanted = if NEEDED.contains(&name.as_str()) {
                true
            } else if UNWANTED.contains(&name.as_str()) {
                false
            } else {
                continue;
            };
            if state != wanted {
                let setting = |state| json!({ "capability": name, "state": state });
                plan.wanted_capabilities.push(setting(wanted));
                plan.capabilities.push(setting(state));
            }
        }
        let current = qmp.execute("query-migrate-parameters", Value::Null)?;
        for (name, wanted) in wanted_parameters(side) {
            match current.get(name) {
                Some(value) if *value != wanted && parameter_value(value).is_some() => {
                    plan.parameters.insert(name.to_owned(), value.clone());
                    plan.wanted_parameters.insert(name.to_owned(), wanted);
                }
                // Equal already, unknown to this version, or nothing that could be put back.
                _ => {}
            }
        }
        Ok(plan)
    }

    /// Changes what has to be changed; on failure what was changed is put back.
    ///
    /// # Errors
    /// As QMP's; QEMU refuses while a migration runs.
    pub fn apply(&self, qmp: &Qmp) -> Result<(), QmpError> {
        set_capabilities(qmp, &self.wanted_capabilities)?;
        set_parameters(qmp, &self.wanted_parameters).inspect_err(|_| {
            // The first error is the one to tell.
            let _second = set_capabilities(qmp, &self.capabilities);
        })
    }

    /// Puts everything back, waiting for an ended migration to be gone.
    ///
    /// # Errors
    /// As QMP's.
    pub fn restore(&self, qmp: &Qmp) -> Result<(), QmpError> {
        set_parameters(qmp, &self.parameters)?;
        set_capabilities_once_idle(qmp, &self.capabilities)
    }

    /// The same, for the agent to do.
    pub fn restore_steps(&self) -> Vec<RollbackStep> {
        let mut steps = Vec::new();
        let parameters = self.parameters.iter();
        let parameters: Vec<_> = parameters
            .filter_map(|(name, value)| Some((Name::new(name).ok()?, parameter_value(value)?)))
            .collect();
        if !parameters.is_empty() {
            steps.push(RollbackStep::SetParameters(parameters));
        }
        let capabilities = self.capabilities.iter();
        let capabilities: Vec<_> = capabilities
            .filter_map(|entry| {
                let name = Name::new(entry["capability"].as_str()?).ok()?;
                Some((name, entry["state"].as_bool()?))
            })
            .collect();
        if !capabilities.is_empty() {
            steps.push(RollbackStep::SetCapabilities(capabilities));
        }
        steps
    }
}

/// A parameter's value as the agent takes it; `None` for what no parameter of ours is.
fn parameter_value(value: &Value) -> Option<ParameterValue> {
    match value {
        Value::Number(number) => number.as_u64().map(ParameterValue::Number),
        Value::Bool(flag) => Some(ParameterValue::Flag(*flag)),
        Value::String(text) => Some(ParameterValue::Text(text.clone())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Name and state of every capability this QEMU knows.
///
/// # Errors
/// As QMP's.
pub fn capabilities(qmp: &Qmp) -> Result<Vec<(String, bool)>, QmpError> {
    let listed = qmp.execute("query-migrate-capabilities", Value::Null)?;
    let entry = |entry: &Value| {
        let name = entry.get("capability")?.as_str()?.to_owned();
        Some((name, entry.get("state")?.as_bool()?))
    };
    Ok(listed
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(entry)
        .collect())
}

/// Parameters and the values they need.
fn wanted_parameters(side: Side) -> Vec<(&'static str, Value)> {
    // QEMU's end of the stream is a socket pair: TLS, if any, is the engine's.
    let mut wanted = vec![("mode", json!("normal")), ("tls-creds", json!(""))];
    if side == Side::Source {
        // QEMU has only video RAM and devices to send, and must never wait with them for a better
        // moment: no rate cap (0), the longest downtime it takes (ms), no assumed bandwidth.
        wanted.push(("max-bandwidth", json!(0)));
        wanted.push(("downtime-limit", json!(2_000_000)));
        wanted.push(("avail-switchover-bandwidth", json!(0)));
    }
    wanted
}

fn set_capabilities(qmp: &Qmp, list: &[Value]) -> Result<(), QmpError> {
    if list.is_empty() {
        return Ok(());
    }
    qmp.execute("migrate-set-capabilities", json!({ "capabilities": list }))
        .map(drop)
}

/// As `set_capabilities`, waiting for an ended migration to be gone.
fn set_capabilities_once_idle(qmp: &Qmp, list: &[Value]) -> Result<(), QmpError> {
    let deadline = Instant::now() + RESTORE_LIMIT;
    loop {
        match set_capabilities(qmp, list) {
            // "There's a migration process in progress": its thread is still winding down.
            Err(QmpError::Refused { .. }) if Instant::now() < deadline => {
                std::thread::sleep(RESTORE_PAUSE);
            }
            result => return result,
        }
    }
}

fn set_parameters(qmp: &Qmp, parameters: &Map<String, Value>) -> Result<(), QmpError> {
    if parameters.is_empty() {
        return Ok(());
    }
    qmp.execute("migrate-set-parameters", Value::Object(parameters.clone()))
        .map(drop)
}
