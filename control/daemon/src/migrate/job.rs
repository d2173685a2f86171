//! Progress and results of migrations, as clients see them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pagelift_rpc::calls::{JobInfo, JobStats};
use pagelift_rpc::params::TypedParam;
use pagelift_v3::cookie::Statistics;

use crate::driver::qemu::native::Progress;

/// libvirt's numbers of kinds of jobs.
const NONE: i32 = 0;
const UNBOUNDED: i32 = 2;
const COMPLETED: i32 = 3;

/// libvirt's numbers of what jobs do.
const INCOMING: i32 = 4;
const OUTGOING: i32 = 5;

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, millis)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A job that runs.
#[derive(Clone, Debug)]
pub(super) struct Running {
    /// When it began.
    pub(super) since: Instant,
    /// The same, by the host's clock.
    pub(super) since_ms: u64,
    /// How far it is, once memory is sent.
    pub(super) progress: Progress,
}

impl Running {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            since_ms: now_ms(),
            progress: Progress::default(),
        }
    }

    fn memory(&self, name: &str) -> u64 {
        self.progress.part("ram", name).unwrap_or(0)
    }

    pub(super) fn info(&self) -> JobInfo {
        let (total, processed, remaining) = (
            self.memory("total"),
            self.memory("transferred"),
            self.memory("remaining"),
        );
        JobInfo {
            kind: UNBOUNDED,
            time_elapsed: millis(self.since.elapsed()),
            time_remaining: 0,
            data_total: total,
            data_processed: processed,
            data_remaining: remaining,
            memory_total: total,
            memory_processed: processed,
            memory_remaining: remaining,
            file_total: 0,
            file_processed: 0,
            file_remaining: 0,
        }
    }

    /// The numbers by libvirt's names, in its order.
    fn numbers(&self) -> Vec<(&'static str, u64)> {
        let progress = &self.progress;
        let mut all = vec![("time_elapsed", millis(self.since.elapsed()))];
        let downtime = progress
            .number("downtime")
            .or_else(|| progress.number("expected-downtime"));
        all.extend(downtime.map(|ms| ("downtime", ms)));
        all.extend(progress.number("setup-time").map(|ms| ("setup_time", ms)));
        for (name, of) in [
            ("data_total", "total"),
            ("data_processed", "transferred"),
            ("data_remaining", "remaining"),
            ("memory_total", "total"),
            ("memory_processed", "transferred"),
            ("memory_remaining", "remaining"),
        ] {
            all.push((name, self.memory(of)));
        }
        // Mbit/s.
        all.push(("memory_bps", self.memory("mbps").saturating_mul(125_000)));
        for (name, of) in [
            ("memory_constant", "duplicate"),
            ("memory_normal", "normal"),
            ("memory_normal_bytes", "normal-bytes"),
            ("memory_dirty_rate", "dirty-pages-rate"),
            ("memory_iteration", "dirty-sync-count"),
            ("memory_postcopy_requests", "postcopy-requests"),
            ("memory_page_size", "page-size"),
        ] {
            all.push((name, self.memory(of)));
        }
        all.extend([
            ("disk_total", 0),
            ("disk_processed", 0),
            ("disk_remaining", 0),
        ]);
        for (name, of) in [
            ("compression_cache", "cache-size"),
            ("compression_bytes", "bytes"),
            ("compression_pages", "pages"),
            ("compression_cache_misses", "cache-miss"),
            ("compression_overflow", "overflow"),
        ] {
            all.extend(progress.part("xbzrle-cache", of).map(|n| (name, n)));
        }
        let throttle = progress.number("cpu-throttle-percentage");
        all.extend(throttle.map(|percent| ("auto_converge_throttle", percent)));
        all
    }

    pub(super) fn stats(&self) -> JobStats {
        stats(UNBOUNDED, OUTGOING, self.numbers())
    }

    /// What the source tells the target at the end.
    pub(super) fn statistics(&self, stopped_ms: u64) -> Statistics {
        let mut statistics = Statistics::default();
        for (name, number) in [
            ("started", self.since_ms),
            ("stopped", stopped_ms),
            ("sent", now_ms()),
            ("disk_bps", 0),
            ("auto_converge_throttle", 0),
        ] {
            statistics.set(name, number);
        }
        for (name, number) in self.numbers() {
            statistics.set(name, number);
        }
        statistics
    }
}

fn stats(kind: i32, operation: i32, numbers: Vec<(&'static str, u64)>) -> JobStats {
    let mut params = vec![TypedParam::new("operation", operation)];
    params.extend(numbers.into_iter().map(|(name, number)| match name {
        // The one of them that is an int.
        "auto_converge_throttle" => {
            TypedParam::new(name, i32::try_from(number).unwrap_or(i32::MAX))
        }
        _ => TypedParam::new(name, number),
    }));
    JobStats {
        kind,
        params: params.try_into().unwrap_or_default(),
    }
}

/// No job.
pub(super) fn no_info() -> JobInfo {
    let mut info = Running::new().info();
    (info.kind, info.time_elapsed) = (NONE, 0);
    info
}

/// No job.
pub(super) fn no_stats() -> JobStats {
    JobStats {
        kind: NONE,
        params: Vec::new().try_into().unwrap_or_default(),
    }
}

/// A job that has completed.
#[derive(Clone, Debug)]
pub(super) struct JobRecord {
    /// Whether the guest came here.
    pub(super) incoming: bool,
    /// What it has done.
    pub(super) statistics: Statistics,
}

impl JobRecord {
    pub(super) fn stats(&self) -> JobStats {
        let operation = if self.incoming { INCOMING } else { OUTGOING };
        let mut numbers: Vec<(&'static str, u64)> = Vec::new();
        for (name, number) in self.statistics.iter() {
            match name {
                "started" | "stopped" | "sent" | "delta" => {}
                "time_elapsed" => {
                    let net = number.saturating_sub(self.statistics.get("delta").unwrap_or(0));
                    numbers.extend([(name, number), ("time_elapsed_net", net)]);
                }
                "downtime" => {
                    let net = number.saturating_sub(self.statistics.get("delta").unwrap_or(0));
                    numbers.extend([(name, number), ("downtime_net", net)]);
                }
                _ => numbers.push((name, number)),
            }
        }
        for (name, of) in [
            ("data_total", "memory_total"),
            ("data_processed", "memory_processed"),
            ("data_remaining", "memory_remaining"),
        ] {
            numbers.extend(self.statistics.get(of).map(|n| (name, n)));
        }
        stats(COMPLETED, operation, numbers)
    }
}
