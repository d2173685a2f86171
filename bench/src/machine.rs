//! The machine that is measured on: what it is, how busy it is, and this program's part of that.
//!
//! Read from /proc; what cannot be read is left empty or 0.

use std::fmt;
use std::fs;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// CPU seconds of the whole machine so far, all processes and interrupts (proc_stat(5)).
pub fn cpu_seconds() -> f64 {
    let text = read("/proc/stat");
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; what follows is part of user and nice.
    let busy = [0, 1, 2, 5, 6, 7];
    let busy: u64 = busy.iter().filter_map(|field| ticks.get(*field)).sum();
    busy as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// CPU seconds of this program.
pub fn own_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Average number of runnable processes over the last minute (proc_loadavg(5)).
pub fn load() -> f64 {
    let text = read("/proc/loadavg");
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// What kind of machine it is. Shown as one line.
#[derive(Clone, Debug, Serialize)]
pub struct Kind {
    /// The processor's name.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
}

impl Kind {
    /// This machine.
    pub fn here() -> Self {
        // x86 has a name in here; others have numbers only (proc_cpuinfo(5)).
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or_else(
                || std::env::consts::ARCH.to_owned(),
                |(_, name)| name.trim().to_owned(),
            );
        Self {
            processor,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            processor,
            cores,
            kernel,
        } = self;
        write!(f, "{processor}, {cores} cores, Linux {kernel}")
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
