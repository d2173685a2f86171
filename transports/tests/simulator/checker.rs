//! What must hold after every run, and what was reached.

use std::collections::BTreeMap;
use std::time::Duration;

use pagelift_engine::migration::{Failure, GuestLocation, MigrationError, PEER_SILENCE, REATTACH};
use pagelift_engine::units::PageCount;
use pagelift_engine::wire::FrameType;

use super::memory::Side;
use super::plan::Plan;
use super::truth::{Mishap, Truth};
use super::world::{Attempt, World};

/// How often each outcome occurred.
pub type Counts = BTreeMap<&'static str, u64>;

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rules that were broken.
    pub broken: Vec<String>,
    pub counts: Counts,
    /// What happened, if it was asked for.
    pub events: Vec<String>,
}

/// Runs `plan` and checks it; moves the guest again over a healthy network if it stayed.
pub fn run(plan: &Plan, keep_events: bool) -> Outcome {
    let mut world = World::new(plan, keep_events);
    let mut counts = Counts::new();
    let first = world.attempt(plan);
    check(&world.truth, &first, &mut counts);
    let stayed = world.truth.source_runs() && !world.truth.target_runs();
    if stayed && plan.second_attempt {
        let second = world.attempt(&plan.healthy());
        match &second.source {
            Some(Err(failure)) if plan.lose_marks.is_none() => {
                let what = format!("a second attempt over a healthy network: {failure}");
                world.truth.broken(what);
            }
            _ => *counts.entry("second attempt completed").or_default() += 1,
        }
        check(&world.truth, &second, &mut Counts::new());
    }
    Outcome {
        broken: world.truth.take_broken(),
        counts,
        events: world.truth.take_events(),
    }
}

/// Checks one attempt against the truth.
fn check(truth: &Truth, attempt: &Attempt, counts: &mut Counts) {
    let (Some(source), Some(target)) = (&attempt.source, &attempt.target) else {
        // It went on for ever, which has been said.
        return;
    };
    let rules = Rules { truth, attempt };
    if let Err(failure) = source {
        rules.may_fail(failure);
    }
    match source {
        Ok(report) => {
            rules.need(truth.target_runs(), "a completed guest runs on the target");
            let verified = report.verified == attempt.plan.verify;
            rules.need(verified, "the report says verified if it was asked for");
        }
        Err(failure) => rules.source_failed(failure),
    }
    match target {
        Ok(verify) => {
            rules.need(truth.target_runs(), "a received guest runs");
            rules.need(*verify == attempt.plan.verify, "both sides verify, or none");
        }
        Err(failure) => rules.target_failed(failure),
    }
    rules.need(!attempt.tracker_armed, "tracking is disarmed at the end");
    rules.need(
        attempt.released == 1,
        "the guest is released once, at the end",
    );
    let spoken_to = attempt.watcher.has_said(Side::Target, FrameType::Accept);
    let alone = attempt.target_told && spoken_to;
    rules.need(!alone, "a target whose source is gone ends by itself");
    count(
        source.as_ref().err(),
        target.as_ref().err(),
        attempt,
        truth,
        counts,
    );
}

struct Rules<'a> {
    truth: &'a Truth,
    attempt: &'a Attempt,
}

impl Rules<'_> {
    fn need(&self, holds: bool, rule: &str) {
        if !holds {
            self.truth.broken(format!("not so: {rule}"));
        }
    }

    /// Where nothing goes wrong, the guest moves, or the policy finds that it cannot.
    fn may_fail(&self, failure: &Failure) {
        let plan = &self.attempt.plan;
        let harmed = !plan.faults.is_empty()
            || !plan.mishaps.is_empty()
            || plan.lose_marks.is_some()
            || plan.damage_placed.is_some()
            || plan.sabotage.is_some()
            || plan.facts_differ;
        let gave_up = matches!(failure.error, MigrationError::NotConverging(_));
        if !harmed && !gave_up {
            let what = format!("nothing went wrong, and it failed: {failure}");
            self.truth.broken(what);
        }
    }

    fn source_failed(&self, failure: &Failure) {
        let (truth, attempt) = (self.truth, self.attempt);
        match failure.guest {
            GuestLocation::Source => {
                self.need(
                    truth.source_runs(),
                    "a guest that stayed runs on the source",
                );
                self.need(!truth.gave_up(), "a guest that stayed was not given up");
                self.need(!truth.is_throttled(), "a guest that stayed runs freely");
            }
            GuestLocation::Target => {
                let why = "a guest is on the target and does not run only if it cannot";
                self.need(truth.target_runs() || truth.happened(Mishap::Run), why);
                self.need(truth.gave_up(), "a guest on the target was given up");
            }
            GuestLocation::Unknown => {
                self.need(truth.gave_up(), "unknown only after the guest was given up");
                self.need(attempt.network_failed, "unknown only if the network failed");
                // Somebody who has waited long enough may interrupt the asking, or the waiting to
                // be asked.
                let impatient = attempt.cancelled;
                let tried = truth.since_gave_up(attempt.source_ended);
                let long_enough = impatient || tried >= REATTACH;
                self.need(long_enough, "unknown only after asking for long enough");
                // A try that began when all was well takes no longer than a silence; but a
                // target whose guest does not start has gone before it is asked.
                let well = attempt.source_ended.since(attempt.well_since);
                let soon = well < PEER_SILENCE + Duration::from_secs(1);
                let gone = truth.happened(Mishap::Run);
                let excused = soon || gone || impatient;
                self.need(excused, "settled if the network comes back in time");
            }
        }
        if self
            .attempt
            .watcher
            .has_said(Side::Source, FrameType::RoundEnd)
            && truth.source_runs()
        {
            let pages = attempt.differ.runs().flat_map(|run| run.indices());
            let lost = pages.filter(|page| !attempt.marked.contains(*page)).count();
            if attempt.plan.lose_marks.is_none() && attempt.plan.damage_placed.is_none() {
                self.need(lost == 0, "what was not delivered is given back");
            }
        }
    }

    fn target_failed(&self, failure: &Failure) {
        let truth = self.truth;
        match failure.guest {
            GuestLocation::Source => {
                self.need(
                    !truth.gave_up(),
                    "the target says source: it was not given up",
                );
                self.need(
                    !truth.target_runs(),
                    "the target says source: it does not run it",
                );
                self.need(
                    self.attempt.abandoned,
                    "a guest that stays there is abandoned",
                );
            }
            GuestLocation::Target => {
                let why = "a guest is on the target and does not run only if it cannot";
                self.need(truth.target_runs() || truth.happened(Mishap::Run), why);
            }
            GuestLocation::Unknown => {
                // It may have been about to say that it is ready when the network failed.
                let watcher = &self.attempt.watcher;
                let said = watcher.has_said(Side::Source, FrameType::State);
                self.need(said, "the target says unknown only once it has the state");
                self.need(
                    self.attempt.network_failed,
                    "unknown only if the network failed",
                );
                self.need(
                    !truth.target_runs(),
                    "the target knows that it runs the guest",
                );
            }
        }
    }
}

/// Every outcome that the standard seeds must reach.
pub const WANTED: [&str; 54] = [
    "completed",
    "completed although the network failed",
    "completed after a reattach",
    "completed with a mishap",
    "source: cancelled",
    "source: digest-mismatch",
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
    "failed in handshake",
    "failed in precopy",
    "failed in blackout",
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
];

fn count(
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
                if report.references.missing > PageCount(0) {
                    add("pages missing");
                }
                let ways = [
                    (pages.delta, "pages as deltas"),
                    (pages.fill, "pages by their word"),
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
            if failure.guest == GuestLocation::Unknown {
                add(if truth.target_runs() {
                    "guest unknown, and on the target"
                } else {
                    "guest unknown, and with nobody"
                });
            }
            add(if truth.gave_up() {
                "failed in hand-over"
            } else if said(FrameType::LastRound) {
                "failed in blackout"
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
