//! What the runs have reached: a simulator that never gets somewhere tests nothing there.

use std::collections::BTreeMap;

use pagelift_engine::migration::{Failure, GuestLocation, MigrationError};
use pagelift_engine::units::PageCount;
use pagelift_engine::wire::FrameType;

use super::memory::Side;
use super::truth::Truth;
use super::world::Attempt;

/// How often each outcome occurred.
pub type Counts = BTreeMap<&'static str, u64>;

/// Every outcome that the standard seeds must reach.
pub const WANTED: [&str; 76] = [
    "completed",
    "completed although the network failed",
    "completed after a reattach",
    "completed with a mishap",
    "source: cancelled",
    "source: digest-mismatch",
    "source: downtime-limit",
    "source: dirty-tracking",
    "source: guest",
    "source: link",
    "source: malformed",
    "source: memory",
    "source: not-converging",
    "source: peer-aborted",
    "source: peer-silent",
    "source: in-doubt",
    "source: refused",
    "source: guest on source",
    "source: guest on target",
    "source: guest unknown",
    "target: cancelled",
    "target: guest",
    "target: in-doubt",
    "target: link",
    "target: malformed",
    "target: memory",
    "target: peer-aborted",
    "target: peer-silent",
    "target: refused",
    "target: guest on source",
    "target: guest on target",
    "target: guest unknown",
    "guest unknown, and with nobody",
    "guest unknown, and on the target",
    "an answer was lost, and the hand-over is recorded",
    "an answer was lost, and the guest goes on at the source",
    "the source was killed",
    "the target was killed",
    "settled after a crash",
    "went on by the agent while the source stood still",
    "let run by a person while the source stood still",
    "completed although the source stood still",
    "failed in handshake",
    "failed in precopy",
    "failed in downtime",
    "failed in hand-over",
    "window full",
    "a page in a second round",
    "second attempt completed",
    "pages by reference",
    "pages missing",
    "pages missing in the last round",
    "most pages by reference",
    "pages as deltas",
    "pages by their word",
    "pages in blocks of lz4",
    "pages in blocks of zstd",
    "pages raw",
    "throttled",
    "forced at the deadline",
    "completed after a knob was turned",
    "gave up after a knob was turned",
    "cancelled after a knob was turned",
    "source: guest-stays",
    "cont refused in doubt",
    "cont obeyed",
    "its stop was ended by hand",
    "started by itself, and was ended",
    "ended before it promised anything",
    "stays because of other hands",
    "stopped by hand",
    "settled while a program was there",
    "refused to begin again in doubt",
    "completed with strangers at the door",
    "completed although frames were forged",
    "failed where frames were forged",
];

/// Counts what one attempt came to.
pub fn count(
    source: Option<&Failure>,
    target: Option<&Failure>,
    attempt: &Attempt,
    truth: &Truth,
    counts: &mut Counts,
) {
    let mut add = |name: &'static str| *counts.entry(name).or_default() += 1;
    let said = |kind| attempt.watcher.has_said(Side::Source, kind);
    match source {
        None => {
            add("completed");
            if attempt.network_failed {
                add("completed although the network failed");
            }
            if attempt.strangers_came {
                add("completed with strangers at the door");
            }
            if attempt.forged {
                add("completed although frames were forged");
            }
            if attempt.plan.freeze.is_some() {
                add("completed although the source stood still");
            }
            if said(FrameType::Reattach) {
                add("completed after a reattach");
            }
            if !attempt.plan.mishaps.is_empty() {
                add("completed with a mishap");
            }
            if let Some(Ok(report)) = &attempt.source {
                let pages = &report.pages;
                if pages.reference > pages.sent().0 / 2 {
                    add("most pages by reference");
                }
                if report.dedup.missing > PageCount(0) {
                    add("pages missing");
                }
                let ways = [
                    (pages.delta, "pages as deltas"),
                    (pages.same_filled, "pages by their word"),
                    (pages.lz4, "pages in blocks of lz4"),
                    (pages.zstd, "pages in blocks of zstd"),
                    (pages.raw, "pages raw"),
                    (pages.reference, "pages by reference"),
                ];
                let used = ways.into_iter().filter(|(pages, _)| *pages > 0);
                used.for_each(|(_, name)| add(name));
            }
            if target.is_some() {
                add("completed, and the target thinks otherwise");
            }
        }
        Some(failure) => {
            add(code("source", &failure.error));
            add(place("source", failure.guest));
            if attempt.forged {
                add("failed where frames were forged");
            }
            if matches!(failure.error, MigrationError::PromiseUnknown(_)) {
                add(if truth.source_runs() {
                    "an answer was lost, and the guest goes on at the source"
                } else {
                    "an answer was lost, and the hand-over is recorded"
                });
            } else if failure.guest == GuestLocation::Unknown {
                add(if truth.target_runs() {
                    "guest unknown, and on the target"
                } else {
                    "guest unknown, and with nobody"
                });
            }
            add(if truth.gave_up() {
                "failed in hand-over"
            } else if said(FrameType::LastRound) {
                "failed in downtime"
            } else if said(FrameType::Join) {
                "failed in precopy"
            } else {
                "failed in handshake"
            });
        }
    }
    if let Some(failure) = target {
        add(code("target", &failure.error));
        add(place("target", failure.guest));
    }
    if truth.was_let_run() && attempt.plan.freeze.is_some() {
        add("let run by a person while the source stood still");
    }
    if truth.is_cut_off() {
        add("went on by the agent while the source stood still");
    }
    if attempt.throttled {
        add("throttled");
    }
    if attempt.forced {
        add("forced at the deadline");
    }
    if !attempt.plan.knobs.is_empty() {
        match source.map(|failure| &failure.error) {
            None => add("completed after a knob was turned"),
            Some(MigrationError::NotConverging(_)) => add("gave up after a knob was turned"),
            Some(MigrationError::Cancelled) => add("cancelled after a knob was turned"),
            Some(_) => {}
        }
    }
    if attempt.watcher.most_in_flight() == 64 {
        add("window full");
    }
    if attempt.watcher.newest_round() > 1 {
        add("a page in a second round");
    }
    if attempt.watcher.was_missing_late() {
        add("pages missing in the last round");
    }
}

fn place(side: &str, guest: GuestLocation) -> &'static str {
    match (side, guest) {
        ("source", GuestLocation::Source) => "source: guest on source",
        ("source", GuestLocation::Target) => "source: guest on target",
        ("source", GuestLocation::Unknown) => "source: guest unknown",
        (_, GuestLocation::Source) => "target: guest on source",
        (_, GuestLocation::Target) => "target: guest on target",
        (_, GuestLocation::Unknown) => "target: guest unknown",
    }
}

fn code(side: &str, error: &MigrationError) -> &'static str {
    let name = format!("{side}: {}", error.code());
    let known = WANTED.into_iter().find(|wanted| *wanted == name);
    known.unwrap_or(match side {
        "source" => "source: another error",
        _ => "target: another error",
    })
}
