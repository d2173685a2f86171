//! `pagelift replay`: runs a policy over the guest and the link of a recorded migration.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use pagelift_engine::converge::{
    Downtime, Ended, Limited, Limits, Record, Recorded, Run, Trace, replay,
};
use serde_json::json;

use crate::exit::ExitCode;
use crate::options::{self, AtDeadlineName, Deadline, MaxThrottle, PolicyName};
use crate::{plot, say};

/// Options of `pagelift replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayOptions {
    /// A trace written by --trace
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// The policy to run; by default all of them, one after the other
    #[arg(long, value_enum)]
    policy: Option<PolicyName>,
    /// Run the policy and the limits that were recorded, with all changes that were made to them
    #[arg(long, conflicts_with_all = ["policy", "downtime", "deadline", "at_deadline",
          "max_throttle"])]
    as_recorded: bool,
    /// Longest blackout allowed; FROM..TO lets it grow, step by step, while rounds get nowhere
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = options::downtime)]
    downtime: Downtime,
    /// Longest time from the beginning to the guest's stop, or none
    #[arg(long, visible_alias = "timeout", value_name = "TIME", default_value = "10m",
          value_parser = options::deadline)]
    deadline: Deadline,
    /// What to do when the deadline has come
    #[arg(long, value_enum, default_value_t = AtDeadlineName::Cancel)]
    at_deadline: AtDeadlineName,
    /// Largest share of its time, in per cent, that the guest may be kept from running; auto: 95,
    /// for one that sleeps up to 98 as long as it does a twentieth of its work, and 99 with classic
    #[arg(long, value_name = "PERCENT", default_value = "auto",
          value_parser = options::max_throttle)]
    max_throttle: MaxThrottle,
    /// Draw what was recorded, or what the policy did if --policy is given
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object for each policy
    #[arg(long)]
    json: bool,
}

/// Runs the policies and prints how each would have ended.
///
/// # Errors
/// When the trace cannot be read or the picture not be written.
pub fn run(options: &ReplayOptions) -> Result<ExitCode> {
    let path = &options.trace;
    let text =
        std::fs::read(path).with_context(|| format!("cannot read the trace {}", path.display()))?;
    let trace = Trace::parse(&String::from_utf8_lossy(&text))
        .with_context(|| path.display().to_string())?;
    let mut drawn = trace.records.clone();
    let model = Recorded::new(trace)
        .ok_or_else(|| anyhow!("the trace has no finished round; there is nothing to run"))?;
    for limits in options.limits(&model)? {
        let mut policy = Limited::new(limits);
        let run = if options.as_recorded {
            replay(&mut model.clone(), &mut policy)
        } else {
            replay(&mut model.clone().without_limits(), &mut policy)
        };
        print(limits, &run, options.json);
        if options.policy.is_some() || options.as_recorded {
            drawn.clone_from(&run.records);
        }
    }
    if let Some(svg) = &options.svg {
        draw(svg, &drawn)?;
    }
    Ok(ExitCode::Completed)
}

impl ReplayOptions {
    /// The limits of each run.
    fn limits(&self, model: &Recorded) -> Result<Vec<Limits>> {
        if self.as_recorded {
            let limits = model.first_limits();
            let limits = limits.ok_or_else(|| anyhow!("the trace has no limits: it is too old"))?;
            return Ok(vec![limits]);
        }
        let all = [
            PolicyName::Predictive,
            PolicyName::Classic,
            PolicyName::None,
        ];
        let policies = self.policy.as_ref().map_or(&all[..], std::slice::from_ref);
        let limits = policies.iter().map(|name| Limits {
            policy: (*name).into(),
            downtime: self.downtime,
            deadline: self.deadline.0,
            at_deadline: self.at_deadline.into(),
            throttle_most: self.max_throttle.0,
        });
        Ok(limits.collect())
    }
}

fn draw(path: &std::path::Path, records: &[Record]) -> Result<()> {
    std::fs::write(path, plot::svg(records))
        .with_context(|| format!("cannot write the picture {}", path.display()))
}

fn print(limits: Limits, run: &Run, as_json: bool) {
    let name = limits.policy.name();
    let blackout_ms = match run.ended {
        Ended::Completed { downtime } => Some(downtime.as_secs_f64() * 1e3),
        Ended::GaveUp | Ended::StillTrying => None,
    };
    let stayed = match run.ended {
        Ended::StillTrying => "still trying",
        _ => "gave up",
    };
    if as_json {
        let object = json!({
            "policy": name,
            "outcome": if blackout_ms.is_some() { "completed" } else { stayed },
            "took_ms": run.took.as_secs_f64() * 1e3,
            "blackout_ms": blackout_ms,
            "rounds": run.records.len(),
            "sent_bytes": run.sent.0,
            "throttle_pct_max": run.throttle_most.as_fraction() * 100.0,
            "guest_slowdown_s": run.lost_work_s,
        });
        say::result(object);
        return;
    }
    let end = blackout_ms.map_or_else(
        || stayed.to_owned(),
        |blackout| format!("completed, blackout {blackout:.0} ms"),
    );
    say::result(format_args!(
        "{name:10} {end} after {:.1} s and {} rounds, {} sent, throttled to {} at most, guest \
         slowed by {:.1} s in all",
        run.took.as_secs_f64(),
        run.records.len(),
        run.sent,
        run.throttle_most,
        run.lost_work_s,
    ));
}
