//! The stages of a migration in a report, and which of them was the bottleneck.

use std::time::Duration;

use pagelift_engine::migration::{SourceStages, StageTime, TargetStages};
use serde_json::{Value, json};

/// The stages of a source, as an object.
pub fn source_json(stages: &SourceStages) -> Value {
    json!({
        "read": times(stages.read),
        "encode": times(stages.encode),
        "send": times(stages.send),
        "target_full_s": stages.target_full.as_secs_f64(),
        "bottleneck": source_bottleneck(stages).map(|found| found.0),
    })
}

/// The stages of a target, as an object.
pub fn target_json(stages: &TargetStages) -> Value {
    json!({
        "receive": times(stages.receive),
        "decode": times(stages.decode),
        "place": times(stages.place),
        "bottleneck": target_bottleneck(stages).map(|found| found.0),
    })
}

/// The stages of a source, in a line.
pub fn source_text(stages: &SourceStages) -> String {
    let named = [
        ("read", stages.read),
        ("encode", stages.encode),
        ("send", stages.send),
    ];
    line(&named, source_bottleneck(stages), stages.total())
}

/// The stages of a target, in a line.
pub fn target_text(stages: &TargetStages) -> String {
    let named = [
        ("receive", stages.receive),
        ("decode", stages.decode),
        ("place", stages.place),
    ];
    line(&named, target_bottleneck(stages), stages.total())
}

/// What bounds the migration, in one sentence; `None` if nothing was measured.
pub fn source_sentence(stages: &SourceStages) -> Option<String> {
    source_bottleneck(stages).map(|found| sentence(found, stages.total()))
}

/// The same, as the target sees it.
pub fn target_sentence(stages: &TargetStages) -> Option<String> {
    target_bottleneck(stages).map(|found| sentence(found, stages.total()))
}

/// The bottleneck for scripts and for people, and the time that shows it.
type Found = (&'static str, &'static str, Duration);

fn source_bottleneck(stages: &SourceStages) -> Option<Found> {
    let link = stages.send.waiting.saturating_sub(stages.target_full);
    most([
        (
            "link",
            "the link was the bottleneck: sending waited for it",
            link,
        ),
        (
            "target",
            "the target was the bottleneck: sending waited for it to take more",
            stages.target_full,
        ),
        (
            "encode",
            "encoding pages was the bottleneck: it took",
            stages.encode.busy,
        ),
        (
            "cpu-limit",
            "the CPU limit was the bottleneck: threads paused",
            stages.encode.waiting,
        ),
        (
            "read",
            "reading guest memory was the bottleneck: it took",
            stages.read.busy,
        ),
        (
            "send",
            "the CPU was the bottleneck: checksums and writing to the link took",
            stages.send.busy,
        ),
        (
            "idle",
            "nothing was the bottleneck: there were no pages to send",
            stages.read.waiting,
        ),
    ])
}

fn target_bottleneck(stages: &TargetStages) -> Option<Found> {
    most([
        (
            "source",
            "the source or the link was the bottleneck: receiving waited for it",
            stages.receive.waiting,
        ),
        (
            "receive",
            "the CPU was the bottleneck: reading from the link and checksums took",
            stages.receive.busy,
        ),
        (
            "decode",
            "decoding pages was the bottleneck: it took",
            stages.decode.busy,
        ),
        (
            "place",
            "writing guest memory was the bottleneck: it took",
            stages.place.busy,
        ),
        (
            "idle",
            "nothing was the bottleneck: connections waited for each other",
            stages.place.waiting,
        ),
    ])
}

/// The one with the longest time, if any took any.
fn most<const N: usize>(all: [Found; N]) -> Option<Found> {
    let longest = all.into_iter().max_by_key(|found| found.2);
    longest.filter(|found| !found.2.is_zero())
}

fn times(stage: StageTime) -> Value {
    json!({
        "busy_s": stage.busy.as_secs_f64(),
        "waiting_s": stage.waiting.as_secs_f64(),
    })
}

fn line(named: &[(&str, StageTime)], found: Option<Found>, total: Duration) -> String {
    let each = named.iter().map(|(name, stage)| {
        let (busy, waiting) = (stage.busy.as_secs_f64(), stage.waiting.as_secs_f64());
        format!("{name} {busy:.2} s and waited {waiting:.2} s")
    });
    let mut text = format!("stages: {}", each.collect::<Vec<_>>().join(", "));
    if let Some(found) = found {
        text += "\n";
        text += &sentence(found, total);
    }
    text
}

fn sentence((_, words, time): Found, total: Duration) -> String {
    let percent = 100.0 * time.as_secs_f64() / total.as_secs_f64();
    format!("{words} {percent:.0} % of the time")
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
        assert_eq!(
            source_text(&stages),
            "stages: read 0.05 s and waited 0.02 s, encode 0.06 s and waited 0.00 s, \
             send 0.04 s and waited 0.83 s\n\
             the link was the bottleneck: sending waited for it 83 % of the time"
        );
        assert_eq!(source_json(&stages)["bottleneck"], "link");
        stages.target_full = Duration::from_millis(500);
        assert_eq!(source_json(&stages)["bottleneck"], "target");
        stages.encode = time(2000, 0);
        assert_eq!(source_json(&stages)["bottleneck"], "encode");
        stages.encode = time(2000, 5000);
        assert_eq!(source_json(&stages)["bottleneck"], "cpu-limit");
        let target = TargetStages {
            receive: time(10, 20),
            decode: time(40, 0),
            place: time(30, 5),
        };
        assert_eq!(target_json(&target)["bottleneck"], "decode");
        assert!(target_text(&target).ends_with("it took 38 % of the time"));
    }

    #[test]
    fn where_nothing_was_measured_nothing_is_blamed() {
        let text = source_text(&SourceStages::default());
        assert!(!text.contains("bottleneck"), "{text}");
        let object = target_json(&TargetStages::default());
        assert_eq!(object["bottleneck"], Value::Null);
    }
}
