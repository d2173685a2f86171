//! What a guest must be like after all that has befallen it, as it says itself, its QEMU says, and
//! the kernel says of its threads.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pagelift_tests::{PATIENCE, Ticks, process};
use serde_json::{Value, json};

use crate::guest::Guest;

/// A thread that sleeps for more of its time is throttled, one that sleeps for less is not: busy
/// guests are throttled by four fifths or more, as a weaker throttle would not do.
const MOSTLY: f64 = 0.5;

impl Guest<'_> {
    /// The guest runs here at full speed, has lost nothing, nobody tracks it, and its disks
    /// are as they were.
    pub(crate) fn check(&self) -> Result<()> {
        self.qemu.wait_ticks(2)?;
        ensure!(self.qemu.run_state()? == "running", "it does not run");
        ensure!(self.qemu.verify()?.bad == 0, "it has bad pages");
        let mut story = self.past.clone();
        story.push(self.qemu.log());
        Ticks::check(&self.ground.workload, &story)?;
        let pid = self.qemu.qemu_pid()?;
        ensure!(!process::is_tracked(pid)?, "it is still tracked");
        // A rollback script takes its time.
        let deadline = Instant::now() + PATIENCE;
        while !self.disks(false)?.is_empty() {
            ensure!(Instant::now() < deadline, "a disk is still buffered");
            sleep(Duration::from_millis(20));
        }
        let disks = self.disks(true)?.len();
        ensure!(disks == self.ground.disks(), "it has {disks} disks");
        if self.ground.is_busy() {
            self.wait_throttled(false)?;
        }
        Ok(())
    }

    /// Waits until it can be seen in the threads of its vCPUs whether it is throttled: a busy
    /// guest's sleep for no other reason.
    pub(crate) fn wait_throttled(&self, wanted: bool) -> Result<()> {
        let pid = self.qemu.qemu_pid()?;
        let deadline = Instant::now() + PATIENCE;
        for thread in self.vcpu_threads()? {
            loop {
                let slept = process::slept_share(pid, thread, Duration::from_millis(300))?;
                if (slept > MOSTLY) == wanted {
                    break;
                }
                let late = Instant::now() >= deadline;
                ensure!(
                    !late,
                    "vCPU thread {thread} sleeps for {slept:.2} of its time"
                );
            }
        }
        Ok(())
    }

    /// The threads of its vCPUs.
    pub(crate) fn vcpu_threads(&self) -> Result<Vec<u32>> {
        let vcpus = self.qemu.execute("query-cpus-fast", json!({}))?;
        let threads = vcpus.as_array().into_iter().flatten();
        let threads = threads.map(|vcpu| vcpu["thread-id"].as_u64());
        let thread = |id: Option<u64>| u32::try_from(id.context("a thread")?).context("its id");
        threads.map(thread).collect()
    }

    /// Nodes of the disks that bypass the host's page cache, or of those that do not.
    pub(crate) fn disks(&self, direct: bool) -> Result<Vec<String>> {
        let arguments = json!({ "flat": true });
        let nodes = self.qemu.execute("query-named-block-nodes", arguments)?;
        let files = nodes.as_array().into_iter().flatten();
        let files = files.filter(|node| node["drv"] == "file");
        let names = files
            .filter(|node| node["cache"]["direct"] == direct)
            .filter_map(|node| Some(node["node-name"].as_str()?.to_owned()));
        Ok(names.collect())
    }

    /// Makes all disks bypass the page cache, as an operator would.
    pub(crate) fn buffer_no_disk(&self) -> Result<()> {
        for node in self.disks(false)? {
            let line = format!("qemu-io {node} \"reopen -o cache.direct=on\"");
            let arguments = json!({ "command-line": line });
            self.qemu.execute("human-monitor-command", arguments)?;
        }
        Ok(())
    }

    /// QEMU's migration settings, which an attempt must leave as they were.
    pub(crate) fn settings(&self) -> Result<[Value; 2]> {
        Ok([
            self.qemu.execute("query-migrate-capabilities", json!({}))?,
            self.qemu.execute("query-migrate-parameters", json!({}))?,
        ])
    }
}
