//! The switchover: from the decision to stop the guest until it runs on the target.
//!
//! ```text
//! Stopping -> LastRound -> Completing -> SavingState -> Loading -> Commit
//! ```

use std::time::Duration;

use super::commit::Commit;
use super::completing::Completing;
use super::types::SourceStep;
use crate::converge::DowntimeForecast;
use crate::migration::error::MigrationError;
use crate::migration::ownership::TargetReady;
use crate::migration::phase::Phase;
use crate::migration::report::DowntimeParts;
use crate::units::Instant;

/// The decision to stop the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct StopDecision {
    /// It is stopped although the downtime is known to be longer than is allowed.
    pub(super) forced: bool,
    /// The downtime that was forecast then.
    pub(super) forecast: Option<DowntimeForecast>,
}

/// A switchover under way.
#[derive(Debug)]
pub(super) struct Switchover {
    decision: StopDecision,
    /// Since when the guest stands still.
    stopped_at: Option<Instant>,
    /// Its parts that are over.
    downtime: DowntimeParts,
    /// When the last of them was over.
    since: Instant,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Stopping,
    LastRound {
        /// Whether all that the guest wrote is known; if not, the round goes on.
        harvested: bool,
    },
    Completing(Completing),
    SavingState {
        asked: bool,
    },
    Loading,
    Commit(Commit),
}

impl Switchover {
    /// The guest is to be stopped.
    pub(super) fn new(decision: StopDecision) -> Self {
        Self {
            decision,
            stopped_at: None,
            downtime: DowntimeParts::default(),
            since: Instant::default(),
            step: Step::Stopping,
        }
    }

    pub(super) fn decision(&self) -> &StopDecision {
        &self.decision
    }

    /// Since when the guest stands still here; `None` while it runs, and once it is being
    /// relinquished.
    pub(super) fn stopped_at(&self) -> Option<Instant> {
        match &self.step {
            Step::Commit(commit) if !commit.is_ready() => None,
            _ => self.stopped_at,
        }
    }

    /// The parts of the downtime that are over.
    pub(super) fn downtime(&self) -> DowntimeParts {
        self.downtime
    }

    /// When the last of them was over.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// What follows the target's `Ready`.
    pub(super) fn commit(&self) -> Option<&Commit> {
        match &self.step {
            Step::Commit(commit) => Some(commit),
            _ => None,
        }
    }

    /// The same, to go on with.
    pub(super) fn commit_mut(&mut self) -> Option<&mut Commit> {
        match &mut self.step {
            Step::Commit(commit) => Some(commit),
            _ => None,
        }
    }

    /// Whether the guest was relinquished, and the target has not said that it runs.
    pub(super) fn awaits_running(&self) -> bool {
        matches!(self.commit(), Some(Commit::HandedOver { .. }))
    }

    /// Whether the guest runs on the target.
    pub(super) fn is_completed(&self) -> bool {
        matches!(self.commit(), Some(Commit::Completed))
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.step, Step::Stopping)
    }

    pub(super) fn is_last_round(&self) -> bool {
        matches!(self.step, Step::LastRound { .. })
    }

    /// Whether the guest stands still, or is to, and the last harvest is not over.
    pub(super) fn awaits_harvest(&self) -> bool {
        matches!(
            self.step,
            Step::Stopping | Step::LastRound { harvested: false }
        )
    }

    /// Whether the target has said that it is complete and, in verify mode, equal.
    pub(super) fn is_complete(&self) -> bool {
        matches!(
            self.step,
            Step::SavingState { .. } | Step::Loading | Step::Commit(_)
        )
    }

    /// What the caller must do now. Digest, device state and hand-over are asked for once.
    pub(super) fn next_step(&mut self) -> Option<SourceStep> {
        match &mut self.step {
            Step::Stopping => Some(SourceStep::StopGuest),
            Step::Completing(completing) => {
                completing.begins_digest().then_some(SourceStep::Digest)
            }
            Step::SavingState { asked } => {
                let due = !std::mem::replace(asked, true);
                due.then_some(SourceStep::SaveState)
            }
            Step::Commit(commit) => commit.next_step(),
            Step::LastRound { .. } | Step::Loading => None,
        }
    }

    /// The guest has stood still since `since`, and the last harvest has found the first pages.
    pub(super) fn stopped_in_part(&mut self, since: Instant) {
        self.stopped_at = Some(since);
        self.step = Step::LastRound { harvested: false };
    }

    /// The guest has stood still since `since`; `harvest` of that went into the last harvest.
    pub(super) fn stopped(&mut self, since: Instant, now: Instant, harvest: Duration) {
        self.stopped_at = Some(since);
        let both = now.since(since);
        self.downtime.harvest = harvest.min(both);
        self.downtime.stop = both.saturating_sub(harvest);
        self.since = now;
        self.step = Step::LastRound { harvested: true };
    }

    /// The last round is sent; digests are compared if `verify`.
    pub(super) fn pages_sent(&mut self, verify: bool) {
        if self.is_last_round() {
            self.step = Step::Completing(Completing::new(verify));
        }
    }

    /// Everything that was handed out is acknowledged.
    pub(super) fn all_is_placed(&mut self, now: Instant) {
        if let Step::Completing(completing) = &mut self.step {
            completing.all_is_placed(now);
        }
    }

    /// The digest of this side's memory.
    ///
    /// # Errors
    /// When it differs from the target's.
    pub(super) fn digested(&mut self, now: Instant, digest: u128) -> Result<(), MigrationError> {
        if let Step::Completing(completing) = &mut self.step {
            completing.digested(digest);
        }
        self.end_of_pages(now)
    }

    /// The target said that all pages are placed.
    ///
    /// # Errors
    /// When its digest differs from this side's.
    pub(super) fn complete_there(
        &mut self,
        now: Instant,
        digest: Option<u128>,
    ) -> Result<(), MigrationError> {
        if let Step::Completing(completing) = &mut self.step {
            completing.complete_there(digest);
        }
        self.end_of_pages(now)
    }

    /// Goes on to the device state once both sides have all pages.
    fn end_of_pages(&mut self, now: Instant) -> Result<(), MigrationError> {
        if let Step::Completing(completing) = &self.step
            && let Some(placed) = completing.placed_until(now)?
        {
            self.downtime.pages = placed.since(self.since);
            self.downtime.verify = now.since(placed);
            self.since = now;
            self.step = Step::SavingState { asked: false };
        }
        Ok(())
    }

    /// Whether the last round is sent, and the target may say that it is complete.
    pub(super) fn is_completing(&self) -> bool {
        matches!(self.step, Step::Completing(_))
    }

    /// The device state is sent, or is on its way without further help.
    pub(super) fn state_sent(&mut self) {
        if matches!(self.step, Step::SavingState { .. }) {
            self.step = Step::Loading;
        }
    }

    /// Whether the target may say that it is ready. It may have the state before this side has
    /// noticed that all of it is sent.
    pub(super) fn awaits_ready(&self) -> bool {
        matches!(self.step, Step::SavingState { .. } | Step::Loading)
    }

    /// The target is ready.
    pub(super) fn ready(&mut self, now: Instant) {
        self.downtime.state = now.since(self.since);
        self.since = now;
        self.step = Step::Commit(Commit::Ready(TargetReady(())));
    }

    /// The guest runs on the target.
    pub(super) fn running(&mut self, now: Instant) {
        self.downtime.hand_over = now.since(self.since);
        self.since = now;
        self.step = Step::Commit(Commit::Completed);
    }

    /// Something ends the migration. Returns it if the guest is the source's, and stays so.
    pub(super) fn fail(&mut self, error: MigrationError) -> Option<MigrationError> {
        match self.commit_mut() {
            Some(commit) => commit.fail(error),
            None => Some(error),
        }
    }

    /// In the public word.
    pub(super) fn phase(&self) -> Phase {
        match &self.step {
            Step::Stopping => Phase::Stopping,
            Step::LastRound { .. } | Step::Completing(_) => Phase::LastRound,
            Step::SavingState { .. } | Step::Loading => Phase::DeviceState,
            Step::Commit(commit) => commit.phase(),
        }
    }
}
