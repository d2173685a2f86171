//! The quota of one cgroup: its files in both versions, and the arithmetic.
//!
//! Version 2: `cpu.max` holds "QUOTA PERIOD" or "max PERIOD" (cgroup-v2.rst, "CPU Interface
//! Files"). Version 1: `cpu.cfs_quota_us`, -1 for none, and `cpu.cfs_period_us` (sched-bwc.rst).
//! All in microseconds; the kernel takes periods of 1 ms to 1 s and quotas from 1 ms on.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pagelift_engine::converge::ThrottleShare;

use super::files::{file_error, read};
use crate::throttle::ThrottleError;

const V2_FILE: &str = "cpu.max";
const V1_QUOTA: &str = "cpu.cfs_quota_us";
const V1_PERIOD: &str = "cpu.cfs_period_us";

const QUOTA_US_MIN: u64 = 1_000;
const PERIOD_US_MIN: u64 = 1_000;
const PERIOD_US_MAX: u64 = 1_000_000;

/// Texts to be written to files, one after the other.
pub(super) type Writes = Vec<(PathBuf, String)>;

/// The quota of one cgroup.
#[derive(Debug)]
pub(super) struct Quota {
    group: PathBuf,
    is_v2: bool,
    before: Limit,
}

/// So much time of one processor in each period, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    quota_us: Option<u64>,
    period_us: u64,
}

/// Whether a quota can be set for the cgroup.
pub(super) fn is_in(group: &Path) -> bool {
    group.join(V2_FILE).exists() || group.join(V1_QUOTA).exists()
}

/// Writes them, up to the first that fails.
pub(super) fn write(writes: &Writes) -> Result<(), ThrottleError> {
    for (path, text) in writes {
        // Never created: a cgroup that is gone must not become a file.
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| file_error(path, source))?;
    }
    Ok(())
}

/// Opens a file of the cgroup as a write does, and writes nothing.
fn check_writable(group: &Path, name: &str) -> Result<(), ThrottleError> {
    let opened = OpenOptions::new().write(true).open(group.join(name));
    opened.map(drop).map_err(|error| {
        let way_out = match error.kind() {
            ErrorKind::ReadOnlyFilesystem => "mount the cgroup file system writable",
            _ => "run pagelift as root, or as the user whom the cgroup is delegated to",
        };
        ThrottleError::Cgroup {
            path: group.to_owned(),
            reason: format!(
                "its {name} cannot be written: {error}; {way_out}, or throttle by the agent"
            ),
        }
    })
}

impl Quota {
    /// The quota of a cgroup, which nothing is known to prevent from being set.
    pub(super) fn open(group: &Path) -> Result<Self, ThrottleError> {
        let is_v2 = group.join(V2_FILE).exists();
        let files: &[&str] = if is_v2 {
            &[V2_FILE]
        } else {
            &[V1_QUOTA, V1_PERIOD]
        };
        for name in files {
            check_writable(group, name)?;
        }
        Ok(Self {
            before: Limit::read(group, is_v2)?,
            group: group.to_owned(),
            is_v2,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.group
    }

    /// Takes the limit of now for the one to put back.
    pub(super) fn remember(&mut self) -> Result<(), ThrottleError> {
        self.before = Limit::read(&self.group, self.is_v2)?;
        Ok(())
    }

    /// What puts the limit back.
    pub(super) fn restoring(&self) -> Writes {
        self.writes(self.before)
    }

    /// What keeps `vcpus` vCPUs from running for `share` of what they could.
    pub(super) fn limiting(&self, share: ThrottleShare, vcpus: usize, period: Duration) -> Writes {
        self.writes(self.before.scaled(share, vcpus, period))
    }

    fn writes(&self, limit: Limit) -> Writes {
        let at = |name: &str| self.group.join(name);
        let quota = |none: &str| {
            limit
                .quota_us
                .map_or_else(|| none.into(), |us| us.to_string())
        };
        if self.is_v2 {
            let text = format!("{} {}", quota("max"), limit.period_us);
            return vec![(at(V2_FILE), text)];
        }
        // Both together must fit into the parent's limit at every step: none always does.
        vec![
            (at(V1_QUOTA), "-1".into()),
            (at(V1_PERIOD), limit.period_us.to_string()),
            (at(V1_QUOTA), quota("-1")),
        ]
    }
}

impl Limit {
    fn read(group: &Path, is_v2: bool) -> Result<Self, ThrottleError> {
        let (quota, period, path) = if is_v2 {
            let path = group.join(V2_FILE);
            let text = read(&path)?;
            let mut fields = text.split_whitespace().map(str::to_owned);
            (fields.next(), fields.next(), path)
        } else {
            let path = group.join(V1_QUOTA);
            let period = read(&group.join(V1_PERIOD))?;
            (Some(read(&path)?), Some(period), path)
        };
        let parse = |text: Option<&str>| text?.trim().parse::<u64>().ok();
        let quota_us = match quota.as_deref().map(str::trim) {
            Some("max" | "-1") => Some(None),
            text => parse(text).map(Some),
        };
        match (quota_us, parse(period.as_deref())) {
            (Some(quota_us), Some(period_us)) if period_us > 0 => Ok(Self {
                quota_us,
                period_us,
            }),
            _ => Err(file_error(
                &path,
                std::io::Error::other("not a quota and a period in microseconds"),
            )),
        }
    }

    /// This limit, or that of `vcpus` whole processors if it is lower, less `share`.
    fn scaled(self, share: ThrottleShare, vcpus: usize, period: Duration) -> Self {
        let running = u128::from(1000 - share.as_permille());
        let vcpus = vcpus as u128;
        let (full_us, per_us) = match self.quota_us {
            Some(quota_us) => (
                u128::from(quota_us).min(vcpus * u128::from(self.period_us)),
                u128::from(self.period_us),
            ),
            None => (vcpus, 1),
        };
        // Processor time per time, as a fraction that is above zero.
        let (above, below) = ((full_us * running).max(1), per_us * 1000);
        let shortest_us = (u128::from(QUOTA_US_MIN) * below).div_ceil(above);
        let period_us = period
            .as_micros()
            .max(shortest_us)
            .clamp(PERIOD_US_MIN.into(), PERIOD_US_MAX.into());
        let quota_us = (period_us * above / below).max(QUOTA_US_MIN.into());
        let as_u64 = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
        Self {
            quota_us: Some(as_u64(quota_us)),
            period_us: as_u64(period_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_what_the_share_leaves_and_no_less_than_the_kernel_takes() {
        let limit = |quota_us, period_us| Limit {
            quota_us,
            period_us,
        };
        let table = [
            // before, share, vcpus, period in ms, after
            (limit(None, 100_000), 500, 1, 10, (5_000, 10_000)),
            (limit(None, 100_000), 900, 4, 10, (4_000, 10_000)),
            (limit(None, 100_000), 990, 1, 1, (1_000, 100_000)),
            (limit(Some(50_000), 100_000), 500, 1, 20, (5_000, 20_000)),
            // More than its vCPUs can use is no limit.
            (limit(Some(400_000), 100_000), 500, 2, 10, (10_000, 10_000)),
            // Several vCPUs have a quota that is long enough before the period is.
            (limit(None, 100_000), 300, 2, 0, (1_400, 1_000)),
            // A limit that is tiny already: the longest period.
            (limit(Some(1_000), 1_000_000), 990, 1, 1, (1_000, 1_000_000)),
        ];
        for (before, permille, vcpus, ms, (quota_us, period_us)) in table {
            let share = ThrottleShare::permille(permille);
            let after = before.scaled(share, vcpus, Duration::from_millis(ms));
            assert_eq!(after, limit(Some(quota_us), period_us), "{before:?}");
        }
    }
}
