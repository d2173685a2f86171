//! `pagelift ctl`: asks a running migration, and changes it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use pagelift_control::socket::ask;
use pagelift_engine::units::{ByteCount, Rate};
use serde_json::{Map, Value, json};

use crate::exit::ExitCode;
use crate::print;

/// Options of `pagelift ctl`.
#[derive(Args, Clone, Debug)]
pub struct CtlOptions {
    /// The control socket: what pagelift-send was given as --control
    #[arg(value_name = "PATH")]
    socket: PathBuf,
    /// Print the answer as it came, one JSON object
    #[arg(long, global = true)]
    json: bool,
    /// What to do
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Says where the migration is
    Status,
    /// Changes it, all at once: downtime, bandwidth, policy, deadline, at-deadline, max-throttle
    Set {
        /// Such as downtime=100ms..1s, bandwidth=none or policy=classic: values as on the command
        /// line; the deadline counts from the migration's beginning
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = assignment)]
        changes: Vec<(String, String)>,
    },
    /// Ends it: the guest runs on on the source
    Cancel,
}

/// Reads NAME=VALUE.
fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.replace('-', "_"), value.to_owned()))
        }
        _ => Err("write NAME=VALUE, such as downtime=100ms".into()),
    }
}

/// Asks, and prints the answer.
///
/// # Errors
/// When nobody answers, or the answer is no.
pub fn run(options: &CtlOptions) -> Result<ExitCode> {
    let answer = ask(&options.socket, &request(&options.command))?;
    if options.json {
        print::result(&answer);
    }
    if answer["ok"] != true {
        let message = &answer["error"]["message"];
        bail!(
            "{}",
            message.as_str().unwrap_or("the answer makes no sense")
        );
    }
    if options.json {
        return Ok(ExitCode::Completed);
    }
    match options.command {
        Command::Status => print::result(describe(&answer["status"])),
        Command::Set { .. } => {
            print::result(describe_settings(&answer["settings"]));
            if let Some(note) = answer["note"].as_str() {
                print::result(format_args!("note: {note}"));
            }
        }
        Command::Cancel => print::result(
            "cancelling: the guest stays on the source, unless it was handed over already",
        ),
    }
    Ok(ExitCode::Completed)
}

fn request(command: &Command) -> Value {
    match command {
        Command::Status => json!({ "command": "status" }),
        Command::Cancel => json!({ "command": "cancel" }),
        Command::Set { changes } => {
            let changes = changes.iter().cloned();
            let mut members: Map<String, Value> = changes
                .map(|(name, value)| (name, Value::String(value)))
                .collect();
            members.insert("command".into(), "set".into());
            Value::Object(members)
        }
    }
}

/// The lines for a status.
fn describe(status: &Value) -> String {
    let number = |key: &str| status[key].as_u64();
    let ms = |key: &str| status[key].as_f64();
    let time = |key: &str| ms(key).map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
    let rate =
        |key: &str| number(key).map_or_else(|| "-".to_owned(), |rate| Rate(rate).to_string());
    let size = |key: &str| ByteCount(number(key).unwrap_or(0));
    let elapsed = status["elapsed_ms"].as_f64().unwrap_or(0.0) / 1e3;
    let mut text = match status["phase"].as_str() {
        None | Some("handshake") => format!("waiting for the target, for {elapsed:.1} s\n"),
        Some(phase) => format!(
            "{}, round {}, {elapsed:.1} s: {} left, {} sent\n\
             the guest writes {} of distinct pages, the link carries {}\n\
             downtime if stopped now {}{}, where {} are allowed\n",
            if phase == "blackout" {
                "downtime"
            } else {
                phase
            },
            number("round").unwrap_or(0),
            size("left_bytes"),
            size("sent_bytes"),
            rate("dirty_bytes_per_s"),
            rate("link_bytes_per_s"),
            time("downtime_forecast_ms"),
            interval(
                ms("downtime_forecast_low_ms"),
                ms("downtime_forecast_high_ms")
            ),
            time("downtime_limit_ms"),
        ),
    };
    if let Some(convergence) = status["convergence"].as_str()
        && status["phase"] == "precopy"
    {
        text += &format!("at the beginning of the round: {convergence}\n");
    }
    if let Some(throttle) = status["throttle_pct"].as_f64().filter(|pct| *pct > 0.0) {
        text += &format!("the guest is throttled to {throttle:.0} %\n");
    }
    text += &stages(&status["stages"]).unwrap_or_default();
    text += &deltas(&status["delta_cache"]).unwrap_or_default();
    if status["forced"] == true {
        text += "the deadline is over: the guest was stopped by force\n";
    }
    if status["cancelling"] == true {
        text += "it is being cancelled\n";
    }
    text + &describe_settings(&status["settings"])
}

/// The ends of a forecast, if they are known.
fn interval(low_ms: Option<f64>, high_ms: Option<f64>) -> String {
    match (low_ms, high_ms) {
        (Some(low), Some(high)) => format!(" ({low:.0} to {high:.0})"),
        _ => String::new(),
    }
}

/// The line for the stages, once one of them has done anything.
fn stages(stages: &Value) -> Option<String> {
    let bottleneck = stages["bottleneck"].as_str()?;
    let each = ["read", "encode", "send"].map(|name| {
        let seconds = |what: &str| stages[name][what].as_f64().unwrap_or(0.0);
        let (busy, waiting) = (seconds("busy_s"), seconds("waiting_s"));
        format!("{name} {busy:.2} s and waited {waiting:.2} s")
    });
    let each = each.join(", ");
    Some(format!(
        "stages so far: {each}; the bottleneck: {bottleneck}\n"
    ))
}

/// The line for the delta cache, once anything was looked up in it.
fn deltas(cache: &Value) -> Option<String> {
    let rate = cache["hit_rate"].as_f64()? * 100.0;
    let saved = ByteCount(cache["saved_bytes"].as_u64()?);
    let overflows = &cache["overflows"];
    Some(format!(
        "delta cache: hit by {rate:.0} % of the pages that came again, {overflows} overflows, \
         {saved} saved\n"
    ))
}

/// The line for the settings.
fn describe_settings(settings: &Value) -> String {
    let ms = |key: &str| settings[key].as_f64();
    let text = |key: &str| settings[key].as_str().unwrap_or("-");
    let (least, most) = (ms("downtime_ms"), ms("downtime_most_ms"));
    let downtime = match (least, most) {
        (Some(least), Some(most)) if most > least => format!("{least} to {most} ms"),
        (Some(least), _) => format!("{least} ms"),
        _ => "-".into(),
    };
    let deadline = ms("deadline_ms").map_or_else(
        || "none".to_owned(),
        |ms| format!("{} s, then {}", ms / 1e3, text("at_deadline")),
    );
    let bandwidth = settings["bandwidth_bytes_per_s"].as_u64().map_or_else(
        || "no cap".to_owned(),
        |rate| format!("at most {}", Rate(rate)),
    );
    let throttle = settings["max_throttle_pct"].as_f64().map_or_else(
        || "throttle as the policy needs".to_owned(),
        |most| format!("throttle at most {most} %"),
    );
    format!(
        "policy {}, downtime {downtime}, deadline {deadline}, {bandwidth}, {throttle}",
        text("policy"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagelift_control::job::JobStatus;
    use pagelift_engine::pipeline::Controls;

    #[test]
    fn a_status_is_told_in_words() {
        let status = JobStatus::new(Controls::default()).to_json();
        let text = describe(&status);
        assert!(text.starts_with("waiting for the target"), "{text}");
        let settings = "policy predictive, downtime 50.0 ms, deadline 600 s, then cancel, no cap, \
                        throttle as the policy needs";
        assert!(text.contains(&settings.replace(".0 ms", " ms")), "{text}");
        let mut status = status;
        for (key, value) in [
            ("phase", json!("precopy")),
            ("round", json!(3)),
            ("left_bytes", json!(1 << 20)),
            ("dirty_bytes_per_s", json!(2 << 20)),
            ("downtime_forecast_ms", json!(12.3)),
            ("downtime_forecast_low_ms", json!(8.1)),
            ("downtime_forecast_high_ms", json!(20.4)),
            ("convergence", json!("it could be stopped soon")),
            ("downtime_limit_ms", json!(50.0)),
            ("throttle_pct", json!(30.0)),
            (
                "stages",
                json!({"send": {"busy_s": 0.5, "waiting_s": 7.25}, "bottleneck": "link"}),
            ),
            (
                "delta_cache",
                json!({"hit_rate": 0.5, "overflows": 3, "saved_bytes": 1 << 20}),
            ),
        ] {
            status[key] = value;
        }
        let text = describe(&status);
        for words in [
            "precopy, round 3",
            "1.0 MiB left",
            "writes 2.0 MiB/s of distinct pages, the link carries -",
            "12 ms (8 to 20), where 50 ms are allowed",
            "at the beginning of the round: it could be stopped soon\n",
            "throttled to 30 %",
            "send 0.50 s and waited 7.25 s; the bottleneck: link\n",
            "hit by 50 % of the pages that came again, 3 overflows, 1.0 MiB saved\n",
        ] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
    }

    #[test]
    fn an_assignment_needs_both_sides() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(
            assignment("at-deadline=force"),
            pair("at_deadline", "force")
        );
        assert_eq!(
            assignment("downtime=1ms..2ms"),
            pair("downtime", "1ms..2ms")
        );
        assert!(assignment("downtime").is_err());
        assert!(assignment("=1").is_err());
        assert!(assignment("downtime=").is_err());
    }
}
