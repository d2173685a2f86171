//! Records what the policy sees and decides while a guest moves.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use pagelift_engine::converge::{
    Decision, Limits, Observation, Policy, Record, ThrottleShare, Trace,
};
use pagelift_engine::units::PageCount;

use crate::print;
use crate::recording::Recording;

/// Where decisions are recorded: in a file, for `--report`, or both.
#[derive(Debug)]
pub struct Recorder {
    first_pages: PageCount,
    file: Option<File>,
    recording: Option<Recording>,
}

impl Recorder {
    /// For a migration whose first round has `first_pages` pages. Nothing is recorded yet.
    pub fn new(first_pages: PageCount) -> Self {
        Self {
            first_pages,
            file: None,
            recording: None,
        }
    }

    /// Writes a trace into a new file at `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_to(&mut self, path: &Path) -> Result<()> {
        let unwritable = |error| {
            let path = path.display();
            anyhow!("cannot write the trace {path}: {error}; name a file that is yours to write")
        };
        let mut file = File::create(path).map_err(unwritable)?;
        writeln!(file, "{}", Trace::header(self.first_pages)).map_err(unwritable)?;
        self.file = Some(file);
        Ok(())
    }

    /// Adds every decision to `recording`.
    pub fn keep_in(&mut self, recording: Recording) {
        recording.starts_with(self.first_pages);
        self.recording = Some(recording);
    }

    /// Records the decisions of `policy`, which begins with `limits`.
    pub fn wrap(self, policy: Box<dyn Policy>, limits: Limits) -> RecordedPolicy {
        RecordedPolicy {
            policy,
            recorder: self,
            limits: Some(limits),
        }
    }

    fn record(&mut self, record: &Record) {
        if let Some(recording) = &self.recording {
            recording.decided(record);
        }
        let Some(file) = &mut self.file else {
            return;
        };
        if let Err(error) = writeln!(file, "{record}") {
            // A guest is not left behind for want of a record.
            print::note(format_args!("warning: the trace is cut short: {error}"));
            self.file = None;
        }
    }
}

/// A policy whose decisions are recorded.
#[derive(Debug)]
pub struct RecordedPolicy {
    policy: Box<dyn Policy>,
    recorder: Recorder,
    /// Limits that no record has yet.
    limits: Option<Limits>,
}

impl Policy for RecordedPolicy {
    fn decide(&mut self, seen: &Observation) -> Decision {
        let decision = self.policy.decide(seen);
        // Within a round only what changes something is worth a line.
        if seen.round_ended || decision != Decision::Continue || self.limits.is_some() {
            let limits = self.limits.take();
            self.recorder.record(&Record {
                seen: *seen,
                decision: decision.clone(),
                limits,
            });
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
        let mut recorder = Recorder::new(PageCount(1000));
        recorder.write_to(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut traced = recorder.wrap(Box::new(policy.clone()), limits);
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
            between_harvests: Duration::from_secs(1),
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
