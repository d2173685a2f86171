//! One move: set up, measured from outside, and checked.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use pagelift_bench::machine::{self, own_cpu_seconds};
use pagelift_bench::memory::touch;
use pagelift_bench::qemu::event_time_s;
use pagelift_tests::{Bed, Builder, Images, PATIENCE, Qemu, Ticks, Workload};
use serde::Serialize;
use serde_json::Value;

use crate::account::burn_rate;
use crate::loopback::Loopback;
use crate::methods::Method;

/// What all moves of one guest have in common.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// What the guest does.
    pub(crate) workload: Workload,
    /// What it boots from.
    pub(crate) images: &'a Images,
    /// The network.
    pub(crate) loopback: &'a Loopback,
    /// Longest downtime allowed.
    pub(crate) downtime: Duration,
    /// Whether the target's memory may be such that a hypervisor below this machine has to find
    /// it first.
    pub(crate) cold: bool,
    /// Whether QEMU's own methods get anonymous guest memory.
    pub(crate) anonymous: bool,
}

/// One move, measured.
#[derive(Debug, Serialize)]
pub(crate) struct Move {
    /// Who moved the guest.
    pub(crate) method: Method,
    /// From the command that starts the move to the guest running on the target.
    pub(crate) total_s: f64,
    /// From the source's STOP event to the target's RESUME event.
    pub(crate) blackout_ms: f64,
    /// Bytes of guest memory on the wire, as the method itself counts them.
    pub(crate) wire_bytes: u64,
    /// Bytes on the loopback, headers and acknowledgements included.
    pub(crate) loopback_bytes: Option<u64>,
    /// CPU seconds of both QEMUs during the move, and of sender and receiver.
    pub(crate) cpu_s: f64,
    /// The same without what the guest itself uses in that time.
    pub(crate) cpu_net_s: f64,
    /// CPU seconds that the guest uses per second by itself.
    pub(crate) guest_burn: f64,
    /// Passes over memory.
    pub(crate) rounds: u64,
    /// Life of the sending program, where there is one.
    pub(crate) process_s: Option<f64>,
    /// CPUs that others kept busy meanwhile, on average.
    pub(crate) others_cpus: f64,
    /// Longest time between two ticks of the guest, seen from outside.
    pub(crate) tick_gap_ms: f64,
    /// What pagelift-send reported.
    pub(crate) report: Option<Value>,
}

impl Bench<'_> {
    /// Moves a fresh guest.
    pub(crate) fn run(&self, bed: &Bed, method: Method) -> Result<Move> {
        let machine = Qemu::builder(bed, self.images).workload(&self.workload);
        let bytes = self.workload.memory_mib << 20;
        let (here, there) = (
            bed.shm_file("source", bytes)?,
            bed.shm_file("target", bytes)?,
        );
        let machine = match method {
            Method::Pagelift => {
                let pagelift = pagelift_tests::program("pagelift")?;
                machine.prefix([pagelift.as_os_str(), "run".as_ref(), "--".as_ref()])
            }
            Method::Precopy | Method::Multifd => machine,
        };
        let source = self
            .with_ram(machine.clone(), method, here.path())
            .start("source")?;
        source.wait_ready()?;
        source.wait_ticks(3)?;
        let target = self
            .with_ram(machine, method, there.path())
            .waiting()
            .start("target")?;
        let ready = method.prepare(bed, &source, &target, self.downtime)?;
        if !self.cold {
            touch(bytes as usize);
        }
        let guest_burn = burn_rate(&source);

        let before = self.now(&source, &target);
        let moved = ready.go()?;
        let resumed = target.wait_event("RESUME", PATIENCE)?;
        let after = self.now(&source, &target);

        let (stopped_s, resumed_s) = (event_time_s(&moved.stopped)?, event_time_s(&resumed)?);
        let blackout_s = resumed_s - stopped_s;
        let gap_ms = self.check(&source, &target)?;
        let window_s = after.at - before.at;
        let cpu_s = after.qemu_cpu_s - before.qemu_cpu_s + moved.cpu_s;
        let machine_s = after.machine_cpu_s - before.machine_cpu_s;
        let own_s = after.own_cpu_s - before.own_cpu_s;
        Ok(Move {
            method,
            total_s: resumed_s - seconds(moved.began)?,
            blackout_ms: blackout_s * 1e3,
            wire_bytes: moved.wire_bytes,
            loopback_bytes: after
                .loopback_bytes
                .zip(before.loopback_bytes)
                .map(|(after, before)| after - before),
            cpu_s,
            cpu_net_s: cpu_s - guest_burn * (window_s - blackout_s),
            guest_burn,
            rounds: moved.rounds,
            process_s: moved.process.map(|time| time.as_secs_f64()),
            others_cpus: ((machine_s - cpu_s - own_s) / window_s).max(0.0),
            tick_gap_ms: gap_ms,
            report: moved.report,
        })
    }

    fn with_ram<'a>(&self, machine: Builder<'a>, method: Method, path: &Path) -> Builder<'a> {
        if self.anonymous && method != Method::Pagelift {
            machine
        } else {
            machine.ram_file(path)
        }
    }

    /// The guest must go on on the target with all its memory. Gives the longest time between
    /// two of its ticks.
    fn check(&self, source: &Qemu, target: &Qemu) -> Result<f64> {
        target.wait_ticks(3)?;
        // The check of all memory keeps the guest from ticking, so the account ends before it.
        let ticks = Ticks::check(&self.workload, &[source.log(), target.log()])?;
        let verified = target.verify()?;
        ensure!(
            verified.pages == self.workload.pages() && verified.bad == 0,
            "the guest lost memory: {verified:?}"
        );
        Ok(ticks.longest_gap_host.as_secs_f64() * 1e3)
    }

    fn now(&self, source: &Qemu, target: &Qemu) -> Counters {
        Counters {
            qemu_cpu_s: source.cpu_seconds() + target.cpu_seconds(),
            machine_cpu_s: machine::cpu_seconds(),
            own_cpu_s: own_cpu_seconds(),
            loopback_bytes: self.loopback.bytes(),
            at: seconds(SystemTime::now()).unwrap_or_default(),
        }
    }
}

impl Move {
    /// One line for who waits.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:14} {:.2} s, downtime {:.1} ms, {} rounds, CPU {:.2} s ({:.2} s net), others kept \
             {:.2} CPUs busy",
            self.method.name(),
            self.total_s,
            self.blackout_ms,
            self.rounds,
            self.cpu_s,
            self.cpu_net_s,
            self.others_cpus
        )
    }
}

/// Counters at one moment.
#[derive(Debug)]
struct Counters {
    qemu_cpu_s: f64,
    machine_cpu_s: f64,
    own_cpu_s: f64,
    loopback_bytes: Option<u64>,
    at: f64,
}

fn seconds(time: SystemTime) -> Result<f64> {
    Ok(time.duration_since(UNIX_EPOCH)?.as_secs_f64())
}
