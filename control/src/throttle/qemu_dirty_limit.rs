//! Limits on what each vCPU writes, kept by QEMU: its dirty-limit, which needs KVM with a dirty
//! ring (`-accel kvm,dirty-ring-size=4096`).
//!
//! Unlike a share of time, a limit is a rate: QEMU has a vCPU sleep whenever its ring is full,
//! for as long as keeps it near the rate, and adapts that once a second. It works with and
//! without a migration of QEMU's, and has no lease: if pagelift dies, the limits stay until
//! somebody sends `cancel-vcpu-dirty-limit`.

use serde_json::{Value, json};

use super::ThrottleError;
use crate::qmp::Qmp;

/// Sets limits. Dropped, it cancels them.
#[derive(Debug)]
pub struct QemuDirtyLimit {
    qmp: Qmp,
    is_active: bool,
}

impl QemuDirtyLimit {
    /// Sets nothing yet.
    pub fn new(qmp: &Qmp) -> Self {
        Self {
            qmp: qmp.clone(),
            is_active: false,
        }
    }

    /// Limits each vCPU, by index, to so many MB per second (at least 1); `None` is no limit.
    ///
    /// # Errors
    /// When this QEMU has no KVM dirty ring, or no vCPU of that index. Limits that were set by
    /// then stay until [`release`](Self::release).
    pub fn limit(&mut self, mb_per_s: &[Option<u64>]) -> Result<(), ThrottleError> {
        for (index, limit) in mb_per_s.iter().enumerate() {
            let (command, arguments) = match limit {
                Some(rate) => (
                    "set-vcpu-dirty-limit",
                    json!({ "cpu-index": index, "dirty-rate": rate.max(&1) }),
                ),
                None => ("cancel-vcpu-dirty-limit", json!({ "cpu-index": index })),
            };
            if limit.is_some() || self.is_active {
                self.qmp.execute(command, arguments)?;
            }
            self.is_active |= limit.is_some();
        }
        Ok(())
    }

    /// Cancels all limits.
    pub fn release(&mut self) {
        if std::mem::take(&mut self.is_active) {
            // Nothing is left to try: a monitor that does not answer has no QEMU, or will have
            // none.
            let _ = self.qmp.execute("cancel-vcpu-dirty-limit", Value::Null);
        }
    }
}

impl Drop for QemuDirtyLimit {
    fn drop(&mut self) {
        self.release();
    }
}
