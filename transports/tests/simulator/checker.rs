//! What must hold after every run.

use std::time::Duration;

use pagelift_engine::migration::{Failure, GuestLocation, MigrationError, PEER_SILENCE, REATTACH};
use pagelift_engine::wire::FrameType;

use super::memory::Side;
use super::plan::Plan;
use super::reached::{Counts, count};
use super::truth::{Mishap, Truth};
use super::world::{Attempt, World};

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
    if first.source.is_some() || first.killed.is_some() {
        world.truth.may_begin_again();
        world.truth.person_settles();
    }
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
        world.truth.person_settles();
    }
    for what in world.truth.take_reached() {
        *counts.entry(what).or_default() += 1;
    }
    Outcome {
        broken: world.truth.take_broken(),
        counts,
        events: world.truth.take_events(),
    }
}

/// Checks one attempt against the truth.
fn check(truth: &Truth, attempt: &Attempt, counts: &mut Counts) {
    if let Some(side) = attempt.killed {
        check_killed(truth, attempt, side, counts);
        return;
    }
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
        attempt.finished == 1,
        "the guest is finished with once, at the end",
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

/// A program was killed: the other one's words must be true all the same.
fn check_killed(truth: &Truth, attempt: &Attempt, side: Side, counts: &mut Counts) {
    let rules = Rules { truth, attempt };
    let mut add = |name| *counts.entry(name).or_default() += 1;
    match (side, &attempt.source, &attempt.target) {
        (Side::Source, _, Some(Err(failure))) => rules.target_failed(failure),
        (Side::Source, _, Some(Ok(_))) => rules.need(truth.target_runs(), "it runs there"),
        (Side::Target, Some(Err(failure)), _) => rules.source_failed(failure),
        (Side::Target, Some(Ok(_)), _) => rules.need(truth.target_runs(), "it ran there"),
        // It went on for ever, which has been said.
        _ => return,
    }
    add(match side {
        Side::Source => "the source was killed",
        Side::Target => "the target was killed",
    });
    if !truth.source_runs() && !truth.target_runs() {
        add("settled after a crash");
    }
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
        let harmed = plan.faults.iter().any(|planned| planned.fault.harms())
            || !plan.forgeries.is_empty()
            || !plan.mishaps.is_empty()
            || plan.lose_marks.is_some()
            || plan.damage_placed.is_some()
            || plan.sabotage.is_some()
            || plan.freeze.is_some()
            || self.truth.is_cut_off()
            || plan.facts_differ;
        let gave_up = matches!(
            failure.error,
            MigrationError::NotConverging(_) | MigrationError::DowntimeLimit { .. }
        );
        if !harmed && !gave_up {
            let what = format!("nothing went wrong, and it failed: {failure}");
            self.truth.broken(what);
        }
    }

    /// The source's agent did not answer when the hand-over was to be recorded.
    fn is_unanswered(&self) -> bool {
        self.truth.happened(Mishap::AnswerLost) || self.truth.happened(Mishap::RecordLost)
    }

    fn source_failed(&self, failure: &Failure) {
        let (truth, attempt) = (self.truth, self.attempt);
        match failure.guest {
            // Somebody has settled it since.
            _ if truth.was_settled() => {}
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
            GuestLocation::Unknown
                if matches!(failure.error, MigrationError::PromiseUnknown(_)) =>
            {
                self.need(
                    self.is_unanswered(),
                    "only an answer that is lost is unknown",
                );
                let told = attempt.watcher.has_said(Side::Source, FrameType::HandOver);
                self.need(!told, "a target is told what is known to be recorded");
                self.need(!truth.target_runs(), "a target that is not told waits");
                let is_made = truth.happened(Mishap::AnswerLost);
                self.need(truth.source_runs() != is_made, "the agent keeps its record");
            }
            GuestLocation::Unknown => {
                self.need(truth.gave_up(), "unknown only after the guest was given up");
                let frozen =
                    attempt.plan.freeze.is_some() || attempt.hung || attempt.killed.is_some();
                let lost = attempt.network_failed || frozen;
                self.need(lost, "unknown only if the two sides lost each other");
                // Somebody who has waited long enough may interrupt the asking, or the waiting to
                // be asked.
                let impatient = attempt.cancelled;
                let tried = truth.since_gave_up(attempt.source_ended);
                let long_enough = impatient || frozen || attempt.forged || tried >= REATTACH;
                self.need(long_enough, "unknown only after asking for long enough");
                // A try that began when all was well takes no longer than a silence; but a
                // target whose guest does not start has gone before it is asked.
                let well = attempt.source_ended.since(attempt.well_since);
                let soon = well < PEER_SILENCE + Duration::from_secs(1);
                let gone = truth.happened(Mishap::Run);
                let excused = soon || gone || impatient || frozen || attempt.forged;
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
            let misled = attempt.misled
                || attempt.plan.lose_marks.is_some()
                || attempt.plan.damage_placed.is_some();
            if !misled {
                self.need(lost == 0, "what was not delivered is given back");
            }
        }
    }

    fn target_failed(&self, failure: &Failure) {
        let truth = self.truth;
        match failure.guest {
            _ if truth.was_settled() => {}
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
                let attempt = self.attempt;
                let struck =
                    attempt.plan.freeze.is_some() || attempt.hung || attempt.killed.is_some();
                let lost = attempt.network_failed || struck || self.is_unanswered();
                self.need(lost, "unknown only if the two sides lost each other");
                self.need(
                    !truth.target_runs() || truth.was_let_run(),
                    "the target knows that it runs the guest",
                );
            }
        }
    }
}
