//! Where a source is, with what exists only there.
//!
//! ```text
//! Handshake -> Arming -> Precopy -> Switchover
//! any of them, but for a switchover in which the guest was relinquished -> Failed
//! ```

use super::commit::Commit;
use super::switchover::{StopDecision, Switchover};
use crate::memory::Mark;
use crate::migration::error::{GuestLocation, MigrationError};
use crate::migration::ownership::{StoppedOwnership, TargetReady};
use crate::migration::phase::Phase;
use crate::units::Instant;

/// Where the machine is.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one value of it in a migration"
)]
#[derive(Debug)]
pub(super) enum State {
    /// The target has not agreed to take the guest.
    Handshake {
        /// What it asks to be looked for.
        marks: Option<Vec<Mark>>,
    },
    /// Dirty tracking is being armed.
    Arming,
    /// The guest runs, and rounds follow each other.
    Precopy(Precopy),
    /// It was decided to stop the guest.
    Switchover(Switchover),
    /// It ended, and the guest is the source's. The reason is there until it is taken.
    Failed(Option<MigrationError>),
}

/// Where it is while the guest runs.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one value of it in a migration"
)]
#[derive(Debug)]
pub(super) enum Precopy {
    /// The pages of a round are handed out.
    Round {
        /// The guest is to be stopped: the channels end the round as it is, and what they have
        /// not sent of it goes into the last one.
        cut_short: Option<StopDecision>,
    },
    /// The round is sent; the pages written meanwhile are to be harvested.
    Harvesting,
    /// Nothing is left to send, and it is not time to stop the guest.
    Idle,
}

impl State {
    /// A round without a decision.
    pub(super) fn round() -> Self {
        Self::Precopy(Precopy::Round { cut_short: None })
    }

    /// Whether pages of a round are handed out while the guest runs.
    pub(super) fn is_round(&self) -> bool {
        matches!(self, Self::Precopy(Precopy::Round { .. }))
    }

    /// Whether the round under way goes on until all of its pages are handed out.
    pub(super) fn hands_out_pages(&self) -> bool {
        let precopy = matches!(self, Self::Precopy(Precopy::Round { cut_short: None }));
        precopy || self.is_last_round()
    }

    /// Whether the round under way is the last one.
    pub(super) fn is_last_round(&self) -> bool {
        self.switchover().is_some_and(Switchover::is_last_round)
    }

    /// Whether it is not all known yet what the guest wrote last.
    pub(super) fn awaits_harvest(&self) -> bool {
        self.switchover().is_some_and(Switchover::awaits_harvest)
    }

    /// Whether the target may say that it misses pages: until the last round is sent.
    pub(super) fn takes_answers(&self) -> bool {
        match self {
            Self::Precopy(_) => true,
            Self::Switchover(switchover) => switchover.is_stopping() || switchover.is_last_round(),
            _ => false,
        }
    }

    /// Whether nothing will be sent any more.
    pub(super) fn sends_no_more(&self) -> bool {
        self.is_over() || self.has_handed_over()
    }

    /// The switchover, once it is decided.
    pub(super) fn switchover(&self) -> Option<&Switchover> {
        match self {
            Self::Switchover(switchover) => Some(switchover),
            _ => None,
        }
    }

    /// The same, to go on with.
    pub(super) fn switchover_mut(&mut self) -> Option<&mut Switchover> {
        match self {
            Self::Switchover(switchover) => Some(switchover),
            _ => None,
        }
    }

    /// The decision to stop the guest, once it was made.
    pub(super) fn decision(&self) -> Option<&StopDecision> {
        match self {
            Self::Precopy(Precopy::Round { cut_short }) => cut_short.as_ref(),
            Self::Switchover(switchover) => Some(switchover.decision()),
            _ => None,
        }
    }

    /// It is decided to stop the guest.
    pub(super) fn stop(&mut self, decision: StopDecision) {
        match self {
            Self::Precopy(Precopy::Round { cut_short }) => *cut_short = Some(decision),
            _ => *self = Self::Switchover(Switchover::new(decision)),
        }
    }

    /// All channels have ended the round. In the last one digests may be wanted.
    pub(super) fn round_sent(&mut self, verify: bool) {
        match self {
            Self::Precopy(Precopy::Round { cut_short }) => {
                *self = match cut_short.take() {
                    Some(decision) => Self::Switchover(Switchover::new(decision)),
                    None => Self::Precopy(Precopy::Harvesting),
                };
            }
            Self::Switchover(switchover) => switchover.pages_sent(verify),
            _ => {}
        }
    }

    /// The guest cannot run here any more: see [`Commit::relinquished`].
    ///
    /// # Errors
    /// When the migration ended before: the guest goes on here.
    pub(super) fn relinquished(
        &mut self,
        now: Instant,
        stopped: StoppedOwnership,
        ready: TargetReady,
    ) -> Result<(), StoppedOwnership> {
        let Self::Switchover(switchover) = self else {
            return Err(stopped);
        };
        let waited = now.since(switchover.since());
        let Some(commit) = switchover.commit_mut() else {
            return Err(stopped);
        };
        commit
            .relinquished(waited, stopped, ready)
            .map_err(|(stopped, ended)| {
                *self = Self::Failed(ended);
                stopped
            })
    }

    /// Whether a guest that is relinquished now goes on here: see [`Commit::keeps_guest`].
    pub(super) fn keeps_guest(&self, now: Instant) -> bool {
        let Some(switchover) = self.switchover() else {
            return true;
        };
        let waited = now.since(switchover.since());
        let commit = switchover.commit();
        commit.is_none_or(|commit| commit.keeps_guest(waited))
    }

    /// The commit, from the target's `Ready` on.
    pub(super) fn commit(&self) -> Option<&Commit> {
        self.switchover()?.commit()
    }

    /// The same, to go on with.
    pub(super) fn commit_mut(&mut self) -> Option<&mut Commit> {
        self.switchover_mut()?.commit_mut()
    }

    /// The migration ends because of `error`. The first reason is kept.
    ///
    /// After the hand-over it stays where it was, and asking the target again may still bring it
    /// to its end.
    pub(super) fn fail(&mut self, error: MigrationError) {
        match self {
            Self::Failed(first) => {
                first.get_or_insert(error);
            }
            Self::Switchover(switchover) => {
                if let Some(error) = switchover.fail(error) {
                    *self = Self::Failed(Some(error));
                }
            }
            _ => *self = Self::Failed(Some(error)),
        }
    }

    /// Why it failed, once.
    pub(super) fn take_failure(&mut self) -> Option<MigrationError> {
        match self {
            Self::Failed(error) => error.take(),
            _ => self.commit_mut()?.take_failure(),
        }
    }

    /// Whether there is nothing more to do.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Failed(_)) || self.commit().is_some_and(Commit::is_over)
    }

    /// Whether the guest was relinquished.
    pub(super) fn has_handed_over(&self) -> bool {
        self.commit().is_some_and(Commit::has_handed_over)
    }

    /// Where the guest is if the migration fails now, as far as the protocol knows.
    pub(super) fn guest_location(&self) -> GuestLocation {
        self.commit()
            .map_or(GuestLocation::Source, Commit::guest_location)
    }

    /// In the public word; `round` is the one under way.
    pub(super) fn phase(&self, round: u32) -> Phase {
        match self {
            Self::Handshake { .. } => Phase::Handshake,
            Self::Arming => Phase::Preparing,
            Self::Precopy(_) => Phase::Precopy { round },
            Self::Switchover(switchover) => switchover.phase(),
            Self::Failed(_) => Phase::Failed,
        }
    }
}
