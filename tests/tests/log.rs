//! `--log-level`, `--log-format` and RUST_LOG: what is logged, and that nothing is by default.

use anyhow::Result;
use pagelift_tests::{Bed, Finished, Programs, Run};
use serde_json::Value;

fn demo(bed: &Bed, options: &[&str], level: Option<&str>) -> Result<Finished> {
    let mut command = Programs::built()?.command(bed, "pagelift");
    command.args(["demo", "--memory=16MiB"]).args(options);
    match level {
        Some(level) => command.env("RUST_LOG", level),
        None => command.env_remove("RUST_LOG"),
    };
    Run::start(bed, "demo", command)?.wait()
}

/// The events of `finished` that are JSON objects, and other lines.
fn events(finished: &Finished) -> Vec<Value> {
    let lines = finished.stderr.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[test]
fn events_are_objects_with_the_migrations_id() -> Result<()> {
    let bed = Bed::new()?;
    let options = ["--log-level=info", "--log-format=json", "--json"];
    let finished = demo(&bed, &options, None)?;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report = finished.json()?;
    let events = events(&finished);
    let messages: Vec<&str> = events
        .iter()
        .filter_map(|event| event["message"].as_str())
        .collect();
    for message in ["phase", "stopping the guest", "completed"] {
        assert!(messages.contains(&message), "{message}: {messages:?}");
    }
    let id = events[0]["span"]["id"].as_str().unwrap_or_default();
    assert_eq!(id.len(), 32, "{events:?}");
    for event in &events {
        assert_eq!(event["span"]["name"], "migration", "{event}");
        assert_eq!(event["span"]["id"], id, "{event}");
        assert_eq!(event["span"]["side"], "source", "{event}");
        assert_eq!(event["level"], "INFO", "{event}");
    }
    let phases: Vec<&str> = events
        .iter()
        .filter_map(|event| event["phase"].as_str())
        .collect();
    for phase in ["handshake", "precopy", "stopping", "completed"] {
        assert!(phases.contains(&phase), "{phase}: {phases:?}");
    }
    let last = &events[events.len() - 1];
    assert_eq!(last["message"], "completed");
    assert_eq!(last["downtime_ms"], report["downtime_ms"]);
    assert_eq!(last["rounds"], report["rounds"]);
    bed.finish();
    Ok(())
}

#[test]
fn nothing_is_logged_by_default_and_the_environment_counts() -> Result<()> {
    let bed = Bed::new()?;
    let silent = demo(&bed, &[], None)?;
    assert_eq!(silent.code(), 0, "{silent:?}");
    assert!(!silent.stderr.contains("migration{"), "{silent:?}");
    let level = Some("pagelift_engine=debug");
    let loud = demo(&bed, &[], level)?;
    assert!(loud.stderr.contains(" INFO migration{id="), "{loud:?}");
    assert!(loud.stderr.contains("completed total_ms="), "{loud:?}");
    // The option is asked first.
    let off = demo(&bed, &["--log-level=off"], level)?;
    assert!(!off.stderr.contains("side=\"source\""), "{off:?}");
    // What makes no sense in the environment does not keep a guest from moving.
    let odd = demo(&bed, &[], Some("loud"))?;
    assert_eq!(odd.code(), 0, "{odd:?}");
    assert!(
        odd.stderr
            .contains("warning: RUST_LOG: \"loud\" is no level"),
        "{odd:?}"
    );
    let wrong = demo(&bed, &["--log-level=loud"], None)?;
    assert_eq!(wrong.code(), 2, "{wrong:?}");
    assert!(
        wrong.stderr.contains("write off, error, warn, info"),
        "{wrong:?}"
    );
    bed.finish();
    Ok(())
}
