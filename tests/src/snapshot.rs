//! What a migration that did not happen must leave as it was.

use core::time::Duration;
use std::fs;
use std::thread::sleep;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::qemu::Qemu;

/// The state of a QEMU, as far as moving its guest could change it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    run_state: String,
    capabilities: Value,
    parameters: Value,
    /// Mappings that a userfaultfd watches.
    tracked: usize,
    /// Open descriptors: a stream, a userfaultfd or a connection that was forgotten.
    descriptors: usize,
}

impl Snapshot {
    /// Looks at a QEMU.
    pub fn of(qemu: &Qemu) -> Result<Self> {
        let pid = qemu.qemu_pid()?;
        // "uw" and "um" are mappings registered with a userfaultfd, proc_pid_smaps(5).
        let watched = |line: &&str| {
            line.strip_prefix("VmFlags: ").is_some_and(|flags| {
                flags
                    .split_whitespace()
                    .any(|flag| matches!(flag, "um" | "uw"))
            })
        };
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        Ok(Self {
            run_state: qemu.run_state()?,
            capabilities: qemu.execute("query-migrate-capabilities", json!({}))?,
            parameters: qemu.execute("query-migrate-parameters", json!({}))?,
            tracked: smaps.lines().filter(watched).count(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        })
    }

    /// Whether a userfaultfd watches any of its memory.
    pub fn is_tracked(&self) -> bool {
        self.tracked > 0
    }

    /// Asserts that a QEMU is as it was when this was taken. QEMU closes a connection when it
    /// gets to it, so the look is repeated for a while.
    ///
    /// # Panics
    /// When it is not.
    pub fn assert_same(&self, qemu: &Qemu) -> Result<()> {
        let deadline = Instant::now() + PATIENCE / 8;
        loop {
            let now = Self::of(qemu)?;
            if now == *self {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "was {self:#?}\nis {now:#?}");
            sleep(Duration::from_millis(20));
        }
    }
}
