//! QEMU's own migration, by its monitor, as far as the programs that compare it have in common.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use pagelift_tests::Qemu;
use serde_json::{Value, json};

/// Switches capabilities on and sets parameters, which must be done alike on both sides.
///
/// # Errors
/// When QEMU refuses.
pub fn configure(qemu: &Qemu, capabilities: &[&str], parameters: &Value) -> Result<()> {
    let on: Vec<Value> = capabilities
        .iter()
        .map(|name| json!({ "capability": name, "state": true }))
        .collect();
    if !on.is_empty() {
        qemu.execute("migrate-set-capabilities", json!({ "capabilities": on }))?;
    }
    qemu.execute("migrate-set-parameters", parameters.clone())?;
    Ok(())
}

/// Has a QEMU that was started with `-incoming defer` wait for a guest; gives the URI that its
/// source is to connect to.
///
/// # Errors
/// When QEMU refuses, or does not say where it listens.
pub fn listen(target: &Qemu, address: Ipv4Addr) -> Result<String> {
    let uri = format!("tcp:{address}:0");
    target.execute("migrate-incoming", json!({ "uri": uri }))?;
    let status = target.execute("query-migrate", json!({}))?;
    let port = status["socket-address"][0]["port"].as_str();
    let port = port.context("the target names no port")?;
    Ok(format!("tcp:{address}:{port}"))
}

/// When QEMU sent an event, in seconds since 1970 (QMP specification, "Asynchronous events").
///
/// # Errors
/// When the event has no time.
pub fn event_time_s(event: &Value) -> Result<f64> {
    let stamp = &event["timestamp"];
    let part = |key: &str| stamp[key].as_f64().with_context(|| format!("{event}"));
    Ok(part("seconds")? + part("microseconds")? / 1e6)
}
