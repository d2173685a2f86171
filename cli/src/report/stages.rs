//! The stages of a migration in a report, and which of them was the bottleneck.

use std::time::Duration;

use pagelift_control::job::Bottleneck;
use pagelift_engine::migration::{SourceStages, StageTime, TargetStages};

/// The stages of a source, in a line.
pub fn source_text(stages: &SourceStages) -> String {
    let named = [
        ("read", stages.read),
        ("encode", stages.encode),
        ("send", stages.send),
    ];
    line(&named, Bottleneck::of_source(stages), stages.total())
}

/// The stages of a target, in a line.
pub fn target_text(stages: &TargetStages) -> String {
    let named = [
        ("receive", stages.receive),
        ("decode", stages.decode),
        ("place", stages.place),
    ];
    line(&named, Bottleneck::of_target(stages), stages.total())
}

/// What bounds the migration, in one sentence; `None` if nothing was measured.
pub fn source_sentence(stages: &SourceStages) -> Option<String> {
    Bottleneck::of_source(stages).map(|found| sentence(found, stages.total()))
}

/// The same, as the target sees it.
pub fn target_sentence(stages: &TargetStages) -> Option<String> {
    Bottleneck::of_target(stages).map(|found| sentence(found, stages.total()))
}

/// A bottleneck and the time that shows it.
type Found = (Bottleneck, Duration);

/// What was the bottleneck, and what the time that follows was taken by.
fn words(bottleneck: Bottleneck) -> &'static str {
    match bottleneck {
        Bottleneck::Link => "the link was the bottleneck: sending waited for it",
        Bottleneck::Target => "the target was the bottleneck: sending waited for it to take more",
        Bottleneck::Encode => "encoding pages was the bottleneck: it took",
        Bottleneck::CpuLimit => "the CPU limit was the bottleneck: threads paused",
        Bottleneck::Read => "reading guest memory was the bottleneck: it took",
        Bottleneck::Send => "the CPU was the bottleneck: checksums and writing to the link took",
        Bottleneck::Source => "the source or the link was the bottleneck: receiving waited for it",
        Bottleneck::Receive => {
            "the CPU was the bottleneck: reading from the link and checksums took"
        }
        Bottleneck::Decode => "decoding pages was the bottleneck: it took",
        Bottleneck::Place => "writing guest memory was the bottleneck: it took",
        Bottleneck::Idle => "nothing was the bottleneck: there were no pages to send",
        Bottleneck::IdleConnections => {
            "nothing was the bottleneck: connections waited for each other"
        }
    }
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

fn sentence((bottleneck, time): Found, total: Duration) -> String {
    let percent = 100.0 * time.as_secs_f64() / total.as_secs_f64();
    let words = words(bottleneck);
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
        stages.target_full = Duration::from_millis(500);
        assert!(source_text(&stages).contains("\nthe target was the bottleneck"));
        stages.encode = time(2000, 0);
        assert!(source_text(&stages).contains("\nencoding pages was the bottleneck"));
        stages.encode = time(2000, 5000);
        assert!(source_text(&stages).contains("\nthe CPU limit was the bottleneck"));
        let target = TargetStages {
            receive: time(10, 20),
            decode: time(40, 0),
            place: time(30, 5),
        };
        assert!(target_text(&target).ends_with("it took 38 % of the time"));
    }

    #[test]
    fn where_nothing_was_measured_nothing_is_blamed() {
        let text = source_text(&SourceStages::default());
        assert!(!text.contains("bottleneck"), "{text}");
        let text = target_text(&TargetStages::default());
        assert!(!text.contains("bottleneck"), "{text}");
    }
}
