//! Parts of a job's status and report as JSON objects.
//!
//! The keys are a contract: none is removed or changes its meaning; new ones may be added.

use std::time::Duration;

use pagelift_engine::codec::cache::CacheStats;
use pagelift_engine::converge::Limits;
use pagelift_engine::migration::{Phase, SourceStages, SourceStatus, StageTime, TargetStages};
use pagelift_engine::pipeline::Settings;
use pagelift_engine::units::Rate;
use serde_json::{Value, json};

use super::bottleneck::Bottleneck;

/// Milliseconds, to the microsecond.
pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Gives every value whose key begins with `blackout`, the word of the first versions, a second
/// key that begins with `downtime`.
pub fn name_downtime(object: &mut Value) {
    let Value::Object(values) = object else {
        return;
    };
    let renamed: Vec<_> = values
        .iter()
        .filter_map(|(key, value)| {
            let rest = key.strip_prefix("blackout")?;
            Some((format!("downtime{rest}"), value.clone()))
        })
        .collect();
    values.extend(renamed);
}

/// The state of a source.
pub(super) fn status(status: &SourceStatus) -> Value {
    let convergence = status
        .convergence
        .map(|convergence| convergence.to_string());
    let mut object = json!({
        "phase": coarse_phase(status),
        "detailed_phase": status.phase.name(),
        "round": status.round,
        "left_bytes": status.left.bytes().0,
        "sent_bytes": status.sent.0,
        "dirty_bytes_per_s": status.dirty.map(|rate| rate.0),
        "link_bytes_per_s": status.link.map(|rate| rate.0),
        "blackout_forecast_ms": status.forecast.map(|interval| ms(interval.likely())),
        "blackout_forecast_low_ms": status.forecast.map(|interval| ms(interval.low())),
        "blackout_forecast_high_ms": status.forecast.map(|interval| ms(interval.high())),
        "downtime_limit_ms": ms(status.limit),
        "throttle_pct": status.throttle.as_fraction() * 100.0,
        "forced": status.forced,
        "stages": source_stages(&status.stages),
        "convergence": convergence,
        "prospect": convergence,
    });
    name_downtime(&mut object);
    object
}

/// The phase by the three words that scripts have known from the beginning.
fn coarse_phase(status: &SourceStatus) -> &'static str {
    match status.phase {
        Phase::Handshake | Phase::Preparing => "handshake",
        Phase::Failed if status.round == 0 => "handshake",
        Phase::Precopy { .. } | Phase::Failed => "precopy",
        _ => "blackout",
    }
}

/// What the user has asked for.
pub fn settings(settings: &Settings) -> Value {
    let Settings { limits, bandwidth } = settings;
    let Limits {
        policy,
        downtime,
        deadline,
        at_deadline,
        throttle_most,
    } = limits;
    json!({
        "policy": policy.name(),
        "downtime_ms": ms(downtime.least()),
        "downtime_most_ms": ms(downtime.most()),
        "deadline_ms": deadline.map(ms),
        "at_deadline": at_deadline.name(),
        "max_throttle_pct": throttle_most.map(|share| share.as_fraction() * 100.0),
        "bandwidth_bytes_per_s": bandwidth.map(|Rate(rate)| rate),
    })
}

/// The stages of a source.
pub fn source_stages(stages: &SourceStages) -> Value {
    json!({
        "read": times(stages.read),
        "encode": times(stages.encode),
        "send": times(stages.send),
        "target_full_s": stages.target_full.as_secs_f64(),
        "bottleneck": Bottleneck::of_source(stages).map(|(found, _)| found.name()),
    })
}

/// The stages of a target.
pub fn target_stages(stages: &TargetStages) -> Value {
    json!({
        "receive": times(stages.receive),
        "decode": times(stages.decode),
        "place": times(stages.place),
        "bottleneck": Bottleneck::of_target(stages).map(|(found, _)| found.name()),
    })
}

fn times(stage: StageTime) -> Value {
    json!({
        "busy_s": stage.busy.as_secs_f64(),
        "waiting_s": stage.waiting.as_secs_f64(),
    })
}

/// The counts of the delta cache; null where there is none.
pub fn delta_cache(stats: Option<&CacheStats>) -> Value {
    let Some(stats) = stats else {
        return Value::Null;
    };
    json!({
        "lookups": stats.lookups,
        "hits": stats.hits,
        "hit_rate": stats.hit_rate(),
        "unchanged": stats.unchanged,
        "overflows": stats.overflows,
        "stored": stats.stored,
        "refused": stats.refused,
        "delta_bytes": stats.delta_bytes,
        "saved_bytes": stats.saved_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(busy_ms: u64, waiting_ms: u64) -> StageTime {
        StageTime {
            busy: Duration::from_millis(busy_ms),
            waiting: Duration::from_millis(waiting_ms),
        }
    }

    #[test]
    fn the_longest_time_names_the_bottleneck() {
        let mut stages = SourceStages {
            read: time(50, 20),
            encode: time(60, 0),
            send: time(40, 830),
            target_full: Duration::ZERO,
        };
        assert_eq!(source_stages(&stages)["bottleneck"], "link");
        stages.target_full = Duration::from_millis(500);
        assert_eq!(source_stages(&stages)["bottleneck"], "target");
        stages.encode = time(2000, 0);
        assert_eq!(source_stages(&stages)["bottleneck"], "encode");
        stages.encode = time(2000, 5000);
        assert_eq!(source_stages(&stages)["bottleneck"], "cpu-limit");
        let target = TargetStages {
            receive: time(10, 20),
            decode: time(40, 0),
            place: time(30, 5),
        };
        assert_eq!(target_stages(&target)["bottleneck"], "decode");
    }

    #[test]
    fn where_nothing_was_measured_nothing_is_blamed() {
        let source = source_stages(&SourceStages::default());
        assert_eq!(source["bottleneck"], Value::Null);
        let target = target_stages(&TargetStages::default());
        assert_eq!(target["bottleneck"], Value::Null);
    }

    #[test]
    fn a_cache_is_told_by_its_counts() {
        let stats = CacheStats {
            lookups: 200,
            hits: 150,
            unchanged: 10,
            overflows: 5,
            stored: 60,
            refused: 0,
            delta_bytes: 3000,
            saved_bytes: 2 << 20,
        };
        let object = delta_cache(Some(&stats));
        assert_eq!(object["hit_rate"], 0.75);
        assert_eq!(object["overflows"], 5);
        assert_eq!(object["saved_bytes"], 2 << 20);
        let unused = delta_cache(Some(&CacheStats::default()));
        assert_eq!(unused["hit_rate"], Value::Null);
        assert_eq!(delta_cache(None), Value::Null);
    }
}
