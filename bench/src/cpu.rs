//! CPU time of the whole machine and of this program, to tell how busy everybody else was.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// CPU seconds of the whole machine so far, all processes and interrupts (proc_stat(5)).
pub fn machine_cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
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
