//! Result of one move.

use serde::Serialize;
use serde_json::{Value, json};

use crate::methods::Method;
use crate::scenarios::Scenario;

/// Which guest is moved, and by whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// The guest.
    pub(crate) scenario: Scenario,
    /// Who moves it.
    pub(crate) method: Method,
    /// From 1.
    pub(crate) run: u32,
}

/// One move, measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Move {
    /// The guest.
    pub(crate) scenario: &'static str,
    /// Who moved it.
    pub(crate) method: Method,
    /// From 1.
    pub(crate) run: u32,
    /// From the command that starts the move to the guest running on the target; `None` if it
    /// stayed.
    pub(crate) total_s: Option<f64>,
    /// From the source's STOP event to the target's RESUME event, on the host's clock.
    pub(crate) blackout_ms: Option<f64>,
    /// Bytes that left the source's end of the link from the start of the move to its end.
    pub(crate) wire_bytes: u64,
    /// Passes over memory, the last included, where the engine says.
    pub(crate) rounds: Option<u64>,
    /// The largest share of its time, in per cent, that the guest was kept from running.
    pub(crate) throttle_pct_max: f64,
    /// What it cost the guest.
    pub(crate) work: Option<WorkFigures>,
    /// CPUs that everything else on the machine kept busy just before the move.
    pub(crate) others_cpus: f64,
    /// Why it stayed.
    pub(crate) failure: Option<String>,
    /// What is wrong with the guest, or with what the move left behind; empty if nothing.
    pub(crate) faults: Vec<String>,
    /// Time of one pass over the memory of the same guest, idle, by the same settings of pagelift.
    pub(crate) one_pass_s: Option<f64>,
    /// What the engine reported.
    pub(crate) report: Value,
}

/// See [`Work`](crate::slowdown::Work).
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct WorkFigures {
    /// Pages written per second at full speed.
    pub(crate) pages_per_s: f64,
    /// Time watched.
    pub(crate) watched_s: f64,
    /// The slowdown integral of the CPUs that write, as if they were one.
    pub(crate) lost_s: f64,
    /// That of those that only compute, as if they were one.
    pub(crate) computing_lost_s: Option<f64>,
}

impl Move {
    /// A move that did not come about, for which the engine or the bench is to blame.
    pub(crate) fn broken(case: Case, why: &anyhow::Error) -> Self {
        Self {
            scenario: case.scenario.name,
            method: case.method,
            run: case.run,
            total_s: None,
            blackout_ms: None,
            wire_bytes: 0,
            rounds: None,
            throttle_pct_max: 0.0,
            work: None,
            others_cpus: f64::NAN,
            failure: None,
            faults: vec![format!("{why:#}")],
            one_pass_s: None,
            report: json!(null),
        }
    }

    /// One line for who waits.
    pub(crate) fn line(&self) -> String {
        let time = match (self.total_s, self.blackout_ms) {
            (Some(total_s), Some(ms)) => format!("{total_s:.1} s, downtime {ms:.0} ms"),
            _ => "did not move".to_owned(),
        };
        let lost = self.work.map_or(f64::NAN, |work| work.lost_s);
        let computing = self.work.and_then(|work| work.computing_lost_s);
        let computing = computing.map_or_else(String::new, |lost_s| {
            format!(" and {lost_s:.1} s of those that compute")
        });
        let mut line = format!(
            "{} {} run {}: {time}, throttle {:.0} %, lost {lost:.1} s{computing}",
            self.scenario, self.method.name, self.run, self.throttle_pct_max
        );
        for fault in &self.faults {
            line.push_str("; FAULT: ");
            line.push_str(fault);
        }
        line
    }
}
