//! Writes a migration's trace as it happens.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pagelift_engine::converge::{Decision, Observation, Policy, Record, Share, Trace};
use pagelift_engine::units::PageCount;

/// A policy whose decisions are recorded.
#[derive(Debug)]
pub struct Tracing {
    policy: Box<dyn Policy>,
    file: File,
    /// Whether the last line could be written; said once if not.
    whole: bool,
}

impl Tracing {
    /// Records `policy` in a new file at `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(policy: Box<dyn Policy>, path: &Path, first_pages: PageCount) -> Result<Self> {
        let unwritable = || format!("cannot write the trace {}", path.display());
        let mut file = File::create(path).with_context(unwritable)?;
        writeln!(file, "{}", Trace::header(first_pages)).with_context(unwritable)?;
        Ok(Self {
            policy,
            file,
            whole: true,
        })
    }
}

impl Policy for Tracing {
    fn decide(&mut self, seen: &Observation) -> Decision {
        let decision = self.policy.decide(seen);
        // Within a round only what changes something is worth a line.
        if seen.round_ended || decision != Decision::Continue {
            let record = Record {
                seen: *seen,
                decision: decision.clone(),
            };
            let written = writeln!(self.file, "{record}");
            if let Err(error) = written
                && std::mem::take(&mut self.whole)
            {
                // A guest is not left behind for want of a record.
                eprintln!("warning: the trace is cut short: {error}");
            }
        }
        decision
    }

    fn downtime_limit(&self) -> Duration {
        self.policy.downtime_limit()
    }

    fn throttle_most(&self) -> Share {
        self.policy.throttle_most()
    }
}
