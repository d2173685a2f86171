//! `pagelift replay`: runs a policy over the guest and the link of a recorded migration.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use pagelift_engine::converge::{Ended, Record, Recorded, Run, Trace, replay};
use serde_json::json;

use crate::exit::ExitCode;
use crate::options::{self, Downtime, PolicyName};
use crate::plot;

/// Options of `pagelift replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayOptions {
    /// A trace written by --trace
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// The policy to run; by default all of them, one after the other
    #[arg(long, value_enum)]
    policy: Option<PolicyName>,
    /// Longest blackout allowed; FROM..TO lets it grow towards the end of the time
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = options::downtime)]
    downtime: Downtime,
    /// Longest time for the whole migration
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = options::duration)]
    timeout: Duration,
    /// Largest share of its time, in per cent, that the guest may be kept from running
    #[arg(long, value_name = "PERCENT", default_value_t = 95,
          value_parser = clap::value_parser!(u16).range(0..=99))]
    max_throttle: u16,
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
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the trace {}", path.display()))?;
    let trace = Trace::parse(&text).with_context(|| path.display().to_string())?;
    let mut drawn = trace.records.clone();
    let all = [
        PolicyName::Predictive,
        PolicyName::Classic,
        PolicyName::None,
    ];
    let policies = options
        .policy
        .as_ref()
        .map_or(&all[..], std::slice::from_ref);
    for name in policies {
        let mut model = Recorded::new(trace.clone())
            .ok_or_else(|| anyhow!("the trace has no finished round; there is nothing to run"))?;
        let mut policy = name.build(options.downtime, options.timeout, options.max_throttle);
        let run = replay(&mut model, &mut *policy);
        print(*name, &run, options.json);
        if options.policy.is_some() {
            drawn.clone_from(&run.records);
        }
    }
    if let Some(svg) = &options.svg {
        draw(svg, &drawn)?;
    }
    Ok(ExitCode::Completed)
}

fn draw(path: &std::path::Path, records: &[Record]) -> Result<()> {
    std::fs::write(path, plot::svg(records))
        .with_context(|| format!("cannot write the picture {}", path.display()))
}

fn print(name: PolicyName, run: &Run, as_json: bool) {
    let name = format!("{name:?}").to_lowercase();
    let blackout_ms = match run.ended {
        Ended::Completed { blackout } => Some(blackout.as_secs_f64() * 1e3),
        Ended::GaveUp => None,
    };
    if as_json {
        let object = json!({
            "policy": name,
            "outcome": if blackout_ms.is_some() { "completed" } else { "gave up" },
            "took_ms": run.took.as_secs_f64() * 1e3,
            "blackout_ms": blackout_ms,
            "rounds": run.records.len(),
            "sent_bytes": run.sent.0,
            "throttle_pct_max": run.throttle_most.as_fraction() * 100.0,
            "guest_slowdown_s": run.harm_s,
        });
        println!("{object}");
        return;
    }
    let end = blackout_ms.map_or_else(
        || "gave up".to_owned(),
        |blackout| format!("completed, blackout {blackout:.0} ms"),
    );
    println!(
        "{name:10} {end} after {:.1} s and {} rounds, {} sent, throttled to {} at most, guest \
         slowed by {:.1} s in all",
        run.took.as_secs_f64(),
        run.records.len(),
        run.sent,
        run.throttle_most,
        run.harm_s,
    );
}
