//! The threads in which the guest's virtual CPUs run.

use serde_json::Value;

use crate::qmp::{Qmp, QmpError};

/// Ids of the vCPUs' threads, in the order of their index (`query-cpus-fast`); as QEMU sees
/// them, which differs from outside a pid namespace. With `-accel tcg,thread=single` all vCPUs
/// share one thread: its id comes once for each of them.
///
/// # Errors
/// As QMP's.
pub fn vcpu_threads(qmp: &Qmp) -> Result<Vec<u32>, QmpError> {
    let cpus = qmp.execute("query-cpus-fast", Value::Null)?;
    threads_of(&cpus).ok_or_else(|| QmpError::Unexpected {
        command: "query-cpus-fast".into(),
        missing: "a cpu-index and a thread-id of each".into(),
    })
}

fn threads_of(cpus: &Value) -> Option<Vec<u32>> {
    let mut cpus = cpus
        .as_array()?
        .iter()
        .map(|cpu| {
            let tid = u32::try_from(cpu["thread-id"].as_u64()?).ok()?;
            Some((cpu["cpu-index"].as_u64()?, tid))
        })
        .collect::<Option<Vec<_>>>()?;
    cpus.sort_unstable();
    Some(cpus.into_iter().map(|(_, tid)| tid).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn threads_come_in_the_order_of_their_cpus() {
        let cpus = json!([
            {"cpu-index": 1, "thread-id": 40, "target": "x86_64"},
            {"cpu-index": 0, "thread-id": 41, "target": "x86_64"},
        ]);
        assert_eq!(threads_of(&cpus), Some(vec![41, 40]));
        assert_eq!(threads_of(&json!([])), Some(vec![]));
        for broken in [
            json!({}),
            json!([{"cpu-index": 0}]),
            json!([{"cpu-index": 0, "thread-id": -1}]),
            json!([{"cpu-index": 0, "thread-id": 1_u64 << 32}]),
        ] {
            assert_eq!(threads_of(&broken), None, "{broken}");
        }
    }
}
