//! `pagelift replay`: runs policies over the guest and the link of a recorded migration, and draws
//! it.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use pagelift_engine::converge::{
    Decision, Downtime, Ended, Limited, Limits, Recorded, Run, Trace, replay,
};
use pagelift_engine::units::PageCount;
use serde_json::json;

use crate::exit::ExitCode;
use crate::options::{self, AtDeadlineName, Deadline, MaxThrottle, PolicyName};
use crate::plot::{self, Timeline};
use crate::print;

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
    /// Longest downtime allowed; FROM..TO lets it grow, step by step, while rounds get nowhere
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
    let first = trace.first_pages;
    let mut drawn = Drawing::of_record(&trace);
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
            drawn = Drawing::of_run(first, limits, &run);
        }
    }
    if let Some(svg) = &options.svg {
        std::fs::write(svg, plot::svg(&drawn.timeline, Some(&drawn.caption)))
            .with_context(|| format!("cannot write the picture {}", svg.display()))?;
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

/// What is drawn, and the line above it.
struct Drawing {
    timeline: Timeline,
    caption: String,
}

impl Drawing {
    /// The migration that was recorded.
    fn of_record(trace: &Trace) -> Self {
        let timeline = Timeline::of(trace.first_pages, &trace.records);
        let end = match trace.records.last().map(|record| &record.decision) {
            Some(Decision::Stop) => "stopped and handed over",
            Some(Decision::Force) => "stopped at the deadline and handed over",
            Some(Decision::GiveUp(_)) => "gave up",
            _ => "not finished",
        };
        let caption = format!(
            "recorded: {} rounds, {end} after {:.2} s",
            timeline.rounds.len(),
            timeline.end
        );
        Self { timeline, caption }
    }

    /// What a policy did under these `limits`.
    fn of_run(first: PageCount, limits: Limits, run: &Run) -> Self {
        let mut timeline = Timeline::of(first, &run.records);
        if timeline.limit.is_empty() {
            timeline
                .limit
                .push((0.0, limits.downtime.least().as_secs_f64()));
        }
        if let Ended::Completed { downtime } = run.ended {
            timeline.end += downtime.as_secs_f64();
        }
        let caption = format!(
            "replayed with policy {}: {} rounds, {} after {:.2} s",
            limits.policy.name(),
            run.records.len(),
            outcome(run),
            run.took.as_secs_f64()
        );
        Self { timeline, caption }
    }
}

/// How a run ended, in two words at most.
fn outcome(run: &Run) -> &'static str {
    match run.ended {
        Ended::Completed { .. } => "completed",
        Ended::GaveUp => "gave up",
        Ended::StillTrying => "still trying",
    }
}

fn print(limits: Limits, run: &Run, as_json: bool) {
    let name = limits.policy.name();
    let downtime_ms = match run.ended {
        Ended::Completed { downtime } => Some(downtime.as_secs_f64() * 1e3),
        Ended::GaveUp | Ended::StillTrying => None,
    };
    if as_json {
        let object = json!({
            "policy": name,
            "outcome": outcome(run),
            "took_ms": run.took.as_secs_f64() * 1e3,
            "blackout_ms": downtime_ms,
            "downtime_ms": downtime_ms,
            "rounds": run.records.len(),
            "sent_bytes": run.sent.0,
            "throttle_pct_max": run.throttle_most.as_fraction() * 100.0,
            "guest_slowdown_s": run.lost_work_s,
        });
        print::result(object);
        return;
    }
    let end = downtime_ms.map_or_else(
        || outcome(run).to_owned(),
        |downtime| format!("completed, downtime {downtime:.0} ms"),
    );
    print::result(format_args!(
        "{name:10} {end} after {:.1} s and {} rounds, {} sent, throttled to {} at most, guest \
         slowed by {:.1} s in all",
        run.took.as_secs_f64(),
        run.records.len(),
        run.sent,
        run.throttle_most,
        run.lost_work_s,
    ));
}
