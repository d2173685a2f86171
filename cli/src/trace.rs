//! Writes a migration's trace as it happens.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use pagelift_engine::converge::{
    Decision, Limits, Observation, Policy, Record, ThrottleShare, Trace,
};
use pagelift_engine::units::PageCount;

use crate::say;

/// A policy whose decisions are recorded.
#[derive(Debug)]
pub struct Tracing {
    policy: Box<dyn Policy>,
    file: File,
    /// Limits that no line has yet.
    limits: Option<Limits>,
    /// Whether the last line could be written; said once if not.
    whole: bool,
}

impl Tracing {
    /// Records `policy`, which begins with `limits`, in a new file at `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(
        policy: Box<dyn Policy>,
        limits: Limits,
        path: &Path,
        first_pages: PageCount,
    ) -> Result<Self> {
        let unwritable = |error| {
            let path = path.display();
            anyhow!("cannot write the trace {path}: {error}; name a file that is yours to write")
        };
        let mut file = File::create(path).map_err(unwritable)?;
        writeln!(file, "{}", Trace::header(first_pages)).map_err(unwritable)?;
        Ok(Self {
            policy,
            file,
            limits: Some(limits),
            whole: true,
        })
    }
}

impl Policy for Tracing {
    fn decide(&mut self, seen: &Observation) -> Decision {
        let decision = self.policy.decide(seen);
        // Within a round only what changes something is worth a line.
        if seen.round_ended || decision != Decision::Continue || self.limits.is_some() {
            let record = Record {
                seen: *seen,
                decision: decision.clone(),
                limits: self.limits.take(),
            };
            let written = writeln!(self.file, "{record}");
            if let Err(error) = written
                && std::mem::take(&mut self.whole)
            {
                // A guest is not left behind for want of a record.
                say::note(format_args!("warning: the trace is cut short: {error}"));
            }
        }
        decision
    }

    fn hold_back(&self, seen: &Observation) -> PageCount {
        self.policy.hold_back(seen)
    }

    fn downtime_limit(&self) -> Duration {
        self.policy.downtime_limit()
    }

    fn throttle_most(&self) -> ThrottleShare {
        self.policy.throttle_most()
    }

    fn set_limits(&mut self, limits: &Limits) {
        self.policy.set_limits(limits);
        self.limits = Some(*limits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_engine::converge::{FixedCosts, Limited, ThrottleResponse};
    use pagelift_engine::units::{ByteCount, Instant, Rate};

    /// A migration that is traced goes as it would without.
    #[test]
    fn all_that_is_asked_and_told_is_passed_on() {
        let path = std::env::temp_dir().join(format!("pagelift-trace-{}", std::process::id()));
        let limits = Limits::default();
        let mut policy = Limited::new(limits);
        let mut traced = Tracing::new(Box::new(policy.clone()), limits, &path, PageCount(1000));
        std::fs::remove_file(&path).unwrap();
        let traced = traced.as_mut().unwrap();
        let seen = Observation {
            now: Instant(1_000_000_000),
            elapsed: Duration::from_secs(1),
            round: 2,
            round_ended: true,
            left: PageCount(100_000),
            held: PageCount(0),
            held_written: PageCount(0),
            in_flight: ByteCount(0),
            bytes_per_page: 4096.0,
            round_page_bytes: 4096.0,
            page_time: None,
            link: Some(Rate(100_000_000)),
            dirty: Some(Rate(50_000_000)),
            fixed: FixedCosts::default(),
            harvested: PageCount(100_000),
            interval: Duration::from_secs(1),
            throttled: ThrottleShare::NONE,
            response: ThrottleResponse::default(),
            placed: ByteCount(0),
        };
        let other = Limits {
            throttle_most: Some(ThrottleShare::permille(500)),
            ..limits
        };
        for limits in [limits, other] {
            policy.set_limits(&limits);
            traced.set_limits(&limits);
            assert_eq!(traced.decide(&seen), policy.decide(&seen));
            assert!(policy.hold_back(&seen) > PageCount(0));
            assert_eq!(traced.hold_back(&seen), policy.hold_back(&seen));
            assert_eq!(traced.downtime_limit(), policy.downtime_limit());
            assert_eq!(traced.throttle_most(), policy.throttle_most());
        }
    }
}
