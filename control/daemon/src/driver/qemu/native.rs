//! QEMU's own migration, by its monitor: capabilities, parameters, progress.
//!
//! All capabilities that a QEMU has are set, on or off, each time: what an earlier migration left would
//! otherwise be part of this one. Parameters are put back afterwards.

use std::thread::sleep;
use std::time::{Duration, Instant};

use pagelift_control::qmp::{Qmp, QmpError};
use pagelift_v3::flags::Flags;
use pagelift_v3::params::{Method, Param, Request};
use serde_json::{Map, Value, json};

/// How often QEMU is asked how far it is.
const POLL: Duration = Duration::from_millis(20);

/// Which side of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest leaves.
    Source,
    /// It arrives.
    Target,
}

/// A rate that is no limit: the most that QEMU takes.
const UNLIMITED: u64 = 9_223_372_036_853_727_232;

/// Settings of a guest that outlive a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// MiB/s.
    pub speed: u64,
    /// MiB/s in post-copy; 0 is no limit.
    pub postcopy_speed: u64,
    /// ms.
    pub max_downtime: u64,
    /// Bytes.
    pub compression_cache: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            speed: pagelift_v3::params::BANDWIDTH_MAX,
            postcopy_speed: 0,
            max_downtime: 300,
            compression_cache: 64 << 20,
        }
    }
}

/// How far a migration is.
#[derive(Clone, Debug, Default)]
pub struct Progress(Value);

impl Progress {
    /// QEMU's word for the state: `none`, `active`, `completed`, `failed` and others.
    pub fn status(&self) -> &str {
        self.0["status"].as_str().unwrap_or("none")
    }

    /// Why it failed.
    pub fn error(&self) -> Option<&str> {
        self.0["error-desc"].as_str()
    }

    /// What stands in the way of a migration.
    pub fn blockers(&self) -> Vec<String> {
        let reasons = self.0["blocked-reasons"].as_array();
        let texts = reasons.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    }

    /// A number of the whole.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0[name].as_u64()
    }

    /// A number of the part `ram` or `xbzrle-cache`.
    pub fn part(&self, part: &str, name: &str) -> Option<u64> {
        let value = &self.0[part][name];
        value.as_u64().or_else(|| value.as_f64().map(|n| n as u64))
    }
}

/// The names of the capabilities that this QEMU has for migrations.
///
/// # Errors
/// As the monitor's.
pub fn capabilities(qmp: &Qmp) -> Result<Vec<String>, QmpError> {
    let all = qmp.execute("query-migrate-capabilities", Value::Null)?;
    let names = all.as_array().into_iter().flatten();
    let names = names.filter_map(|c| c["capability"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Whether something is done to a disk of the guest: a copy, a mirror, a commit.
///
/// # Errors
/// As the monitor's.
pub fn has_block_job(qmp: &Qmp) -> Result<bool, QmpError> {
    let jobs = qmp.execute("query-block-jobs", Value::Null)?;
    Ok(jobs.as_array().is_some_and(|jobs| !jobs.is_empty()))
}

/// How far the migration is.
///
/// # Errors
/// As the monitor's.
pub fn progress(qmp: &Qmp) -> Result<Progress, QmpError> {
    qmp.execute("query-migrate", Value::Null).map(Progress)
}

/// Sets what `request` asks for on one side; `peer_acks` says whether the other side takes part in
/// deciding when to switch over. The parameters as they were.
///
/// # Errors
/// As the monitor's.
pub fn prepare(
    qmp: &Qmp,
    side: Side,
    request: &Request,
    settings: &Settings,
    peer_acks: bool,
) -> Result<Value, QmpError> {
    let flags = request.flags;
    let source = side == Side::Source;
    let wanted = [
        ("return-path", true),
        ("switchover-ack", peer_acks),
        ("late-block-activate", !source),
        ("xbzrle", request.compression.has(Method::Xbzrle)),
        ("auto-converge", source && flags.has(Flags::AUTO_CONVERGE)),
        ("postcopy-ram", flags.has(Flags::POSTCOPY)),
        ("postcopy-preempt", flags.has(Flags::POSTCOPY)),
        ("multifd", flags.has(Flags::PARALLEL)),
        ("zero-copy-send", source && flags.has(Flags::ZEROCOPY)),
        ("events", true),
    ];
    set_capabilities(qmp, |name| wanted.contains(&(name, true)))?;
    let before = qmp.execute("query-migrate-parameters", Value::Null)?;
    qmp.execute(
        "migrate-set-parameters",
        parameters(side, request, settings),
    )?;
    Ok(before)
}

fn set_capabilities(qmp: &Qmp, on: impl Fn(&str) -> bool) -> Result<(), QmpError> {
    let names = capabilities(qmp)?;
    let all: Vec<Value> = names
        .iter()
        .map(|name| json!({ "capability": name, "state": on(name) }))
        .collect();
    let all = json!({ "capabilities": all });
    qmp.execute("migrate-set-capabilities", all).map(drop)
}

fn parameters(side: Side, request: &Request, settings: &Settings) -> Value {
    let options = &request.options;
    let mut all = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        all.extend(value.map(|value| (name.to_owned(), value)));
    };
    let rate = |mib_s: u64| match mib_s {
        0 => UNLIMITED,
        mib_s => mib_s.min(pagelift_v3::params::BANDWIDTH_MAX) << 20,
    };
    set("tls-creds", Some("".into()));
    set("tls-hostname", Some("".into()));
    set(
        "multifd-channels",
        options.get(Param::PARALLEL_CONNECTIONS).map(Value::from),
    );
    if request.flags.has(Flags::PARALLEL) {
        set(
            "multifd-compression",
            Some(request.compression.parallel().unwrap_or("none").into()),
        );
    }
    set(
        "multifd-zlib-level",
        options.get(Param::ZLIB_LEVEL).map(Value::from),
    );
    set(
        "multifd-zstd-level",
        options.get(Param::ZSTD_LEVEL).map(Value::from),
    );
    let cache = options
        .get(Param::XBZRLE_CACHE)
        .unwrap_or(settings.compression_cache);
    set("xbzrle-cache-size", Some(cache.into()));
    if side == Side::Source {
        let speed = options
            .get(Param::BANDWIDTH)
            .filter(|n| *n > 0)
            .unwrap_or(settings.speed);
        set("max-bandwidth", Some(rate(speed).into()));
        set("downtime-limit", Some(settings.max_downtime.into()));
        let postcopy = options
            .get(Param::BANDWIDTH_POSTCOPY)
            .unwrap_or(settings.postcopy_speed);
        set("max-postcopy-bandwidth", Some((postcopy << 20).into()));
        let switchover = options.get(Param::BANDWIDTH_SWITCHOVER);
        set(
            "avail-switchover-bandwidth",
            switchover.map(|n| (n << 20).into()),
        );
        set(
            "cpu-throttle-initial",
            options.get(Param::CONVERGE_INITIAL).map(Value::from),
        );
        set(
            "cpu-throttle-increment",
            options.get(Param::CONVERGE_INCREMENT).map(Value::from),
        );
    }
    all.into()
}

/// Puts back what a migration has set: a QEMU that stays is as it was before.
///
/// # Errors
/// As the monitor's.
pub fn restore(qmp: &Qmp, before: &Value) -> Result<(), QmpError> {
    set_capabilities(qmp, |_| false)?;
    let changed = [
        "tls-creds",
        "tls-hostname",
        "max-bandwidth",
        "downtime-limit",
        "max-postcopy-bandwidth",
        "avail-switchover-bandwidth",
        "cpu-throttle-initial",
        "cpu-throttle-increment",
        "multifd-channels",
        "multifd-compression",
        "multifd-zlib-level",
        "multifd-zstd-level",
        "xbzrle-cache-size",
    ];
    let kept = changed.iter().filter_map(|name| {
        let value = before.get(name).filter(|value| !value.is_null())?;
        Some(((*name).to_owned(), value.clone()))
    });
    let kept: Map<String, Value> = kept.collect();
    qmp.execute("migrate-set-parameters", kept.into()).map(drop)
}

/// Listens for a guest at `uri`.
///
/// # Errors
/// As the monitor's: the address may be in use.
pub fn listen(qmp: &Qmp, uri: &str) -> Result<(), QmpError> {
    let stays = json!({ "uri": uri, "exit-on-error": false });
    qmp.execute("migrate-incoming", stays).map(drop)
}

/// Sends the guest to `uri` until QEMU has ended doing so, and calls `on_progress` all the while. The
/// last progress says how it ended.
///
/// # Errors
/// As the monitor's.
pub fn send(
    qmp: &Qmp,
    uri: &str,
    mut on_progress: impl FnMut(&Progress),
) -> Result<Progress, QmpError> {
    qmp.execute("migrate", json!({ "uri": uri }))?;
    loop {
        let now = progress(qmp)?;
        on_progress(&now);
        match now.status() {
            "completed" | "failed" | "cancelled" | "postcopy-active" | "postcopy-paused" => {
                return Ok(now);
            }
            _ => sleep(POLL),
        }
    }
}

/// Tells QEMU to stop sending; nothing happens if it does not.
///
/// # Errors
/// As the monitor's.
pub fn cancel(qmp: &Qmp) -> Result<(), QmpError> {
    qmp.execute("migrate_cancel", Value::Null).map(drop)
}

/// Waits until QEMU has ended sending, for as long as `patience` at most: one that was cancelled takes its
/// time, and does not let its guest run before.
///
/// # Errors
/// As the monitor's.
pub fn ended(qmp: &Qmp, patience: Duration) -> Result<(), QmpError> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        match progress(qmp)?.status() {
            "none" | "completed" | "failed" | "cancelled" => break,
            _ => sleep(POLL),
        }
    }
    Ok(())
}

/// Waits until a guest that comes in is there as a whole, or has failed; for as long as `patience` at
/// most without any progress of QEMU's.
///
/// # Errors
/// As the monitor's.
pub fn arrived(qmp: &Qmp, patience: Duration) -> Result<Progress, QmpError> {
    let deadline = Instant::now() + patience;
    loop {
        let now = progress(qmp)?;
        let ended = matches!(now.status(), "completed" | "failed" | "none");
        if ended || Instant::now() >= deadline {
            return Ok(now);
        }
        sleep(POLL);
    }
}
