//! The CPU's model, flags and numbers.
//!
//! They are asked of the running vCPU, not by expanding a model's name: `query-cpu-model-expansion`
//! knows nothing of the flags that a command line adds or takes away.

use pagelift_engine::wire::GuestProperty;
use serde_json::Value;

use super::x86::{self, FeatureWords};
use super::{listed, one, plain, values};
use crate::qmp::{Qmp, QmpError};

/// Boolean properties of a CPU that are no flags: how QEMU treats it, and its state as a device.
const NO_FLAGS: [&str; 9] = [
    "check",
    "enforce",
    "fill-mtrr-mask",
    "hotpluggable",
    "hotplugged",
    "migratable",
    "realized",
    "start-powered-off",
    "host-phys-bits",
];

/// Numbers and texts that the guest reads by CPUID.
const NUMBERS: [&str; 12] = [
    "avx10-version",
    "family",
    "guest-phys-bits",
    "hv-spinlocks",
    "hv-vendor-id",
    "level",
    "model",
    "model-id",
    "phys-bits",
    "stepping",
    "vendor",
    "xlevel",
];

pub(super) fn details(qmp: &Qmp) -> Result<Vec<GuestProperty>, QmpError> {
    let cpus = qmp.execute("query-cpus-fast", Value::Null)?;
    let cpus: Vec<&Value> = cpus.as_array().into_iter().flatten().collect();
    let mut details = vec![GuestProperty::detail("vCPUs", plugged(&cpus))];
    // All are of one model: machines take no others.
    let Some(path) = cpus.first().and_then(|cpu| cpu["qom-path"].as_str()) else {
        return Ok(details);
    };
    let words = match one(qmp, path, "feature-words")? {
        Some(words) => words,
        None => Value::Null,
    };
    let words = FeatureWords::new(&words);
    let kvm = qmp.execute("query-kvm", Value::Null)?["enabled"] == Value::Bool(true);
    let mut flags = Vec::new();
    let mut asked = Vec::new();
    for (name, kind) in listed(qmp, path)? {
        if name == "type" || NUMBERS.contains(&name.as_str()) {
            asked.push(name);
        } else if kind == "bool" && is_flag(&name) && is_seen(&name, &words, kvm) {
            match words.has(&name) {
                Some(true) => flags.push(name),
                Some(false) => {}
                None => asked.push(name),
            }
        }
    }
    let mut numbers = Vec::new();
    for (name, value) in values(qmp, path, asked)? {
        if name == "type" {
            let model = plain(&value);
            details.push(GuestProperty::detail("CPU model", [model_name(&model)]));
        } else if value == Value::Bool(true) {
            flags.push(name);
        } else if !value.is_boolean() {
            numbers.push(format!("{name}={}", plain(&value)));
        }
    }
    flags.sort_unstable();
    details.push(GuestProperty::detail("CPU flags", flags));
    details.push(GuestProperty::detail("CPU", numbers));
    Ok(details)
}

/// Names with `_` or `.` are second names of others; those that begin with `x-` are QEMU's own.
fn is_flag(name: &str) -> bool {
    !name.starts_with("x-") && !name.contains(['_', '.']) && !NO_FLAGS.contains(&name)
}

/// Whether the guest can find out about a flag: flags behind `vmx` or in a register that another flag
/// announces say nothing without it, nor do KVM's without KVM.
fn is_seen(name: &str, words: &FeatureWords<'_>, kvm: bool) -> bool {
    const OF_KVM: [&str; 4] = ["kvm-", "kvmclock", "hv-", "xen-vapic"];
    if OF_KVM.iter().any(|prefix| name.starts_with(prefix)) {
        return kvm;
    }
    x86::announced_by(name).is_none_or(|flag| words.has(flag) != Some(false))
}

/// `EPYC` of `EPYC-x86_64-cpu`.
fn model_name(kind: &str) -> &str {
    let kind = kind.strip_suffix("-cpu").unwrap_or(kind);
    kind.rsplit_once('-').map_or(kind, |(model, _)| model)
}

/// Where each vCPU sits, in words.
fn plugged(cpus: &[&Value]) -> Vec<String> {
    let place = |cpu: &&Value| {
        let props = cpu["props"].as_object();
        let mut words: Vec<String> = props
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key} {}", plain(value)))
            .collect();
        words.sort_unstable();
        words.join(" ")
    };
    let mut places: Vec<String> = cpus.iter().map(place).collect();
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names() {
        assert_eq!(model_name("EPYC-v4-x86_64-cpu"), "EPYC-v4");
        assert_eq!(model_name("cortex-a57-arm-cpu"), "cortex-a57");
        assert!(is_flag("avx2") && is_flag("vmx-ept"));
        assert!(!is_flag("sse4_1") && !is_flag("x-force-features") && !is_flag("realized"));
    }

    #[test]
    fn places_have_an_order_of_their_own() {
        let cpu = |core: u32| json!({ "props": { "socket-id": 0, "core-id": core } });
        let (one, two) = (cpu(1), cpu(0));
        let places = plugged(&[&one, &two]);
        assert_eq!(places, ["core-id 0 socket-id 0", "core-id 1 socket-id 0"]);
    }
}
