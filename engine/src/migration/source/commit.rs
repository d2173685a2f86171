//! The source's half of the two-phase commit: from the target's `Ready` until the guest runs there.
//!
//! ```text
//! Ready -> Relinquishing -> HandedOver -> Completed
//!                  |
//!                  +------> MayBePromised
//! ```
//!
//! [`Commit::HandedOver`] holds the proof that the guest was relinquished, and leads to `Completed`
//! only: a connection that fails then is noted beside it, and may be replaced. Where the journal did
//! not answer, [`Commit::MayBePromised`] is the end: the guest goes on nowhere by this side's doing.

use std::time::Duration;

use super::types::SourceStep;
use crate::migration::error::{GuestLocation, MigrationError};
use crate::migration::ownership::{Relinquished, StoppedOwnership, TargetReady};
use crate::migration::phase::Phase;
use crate::migration::{IN_DOUBT, PEER_SILENCE};
use crate::wire::AbortCode;

/// How far it is.
#[derive(Debug)]
pub(super) enum Commit {
    /// The target is prepared; the guest is here.
    Ready(TargetReady),
    /// The guest is being made unable to run here; the target was not told.
    Relinquishing {
        /// Why the migration ended meanwhile.
        ended: Option<MigrationError>,
    },
    /// The target is told, or will be over a new connection.
    HandedOver {
        _proof: Relinquished,
        /// The target said that it has the guest, although it does not run.
        kept_by_target: bool,
        /// What became of the connection.
        lost: Option<MigrationError>,
    },
    /// The journal may have it that the guest is the target's. The target was not told, and will
    /// not be.
    MayBePromised { _proof: Relinquished },
    /// The guest runs on the target.
    Completed,
}

impl Commit {
    /// What the caller must do now. The proof that the target is ready is given once.
    pub(super) fn next_step(&mut self) -> Option<SourceStep> {
        match self {
            Self::Ready(_) => match std::mem::replace(self, Self::Relinquishing { ended: None }) {
                Self::Ready(ready) => Some(SourceStep::HandOver(ready)),
                _ => None,
            },
            Self::Relinquishing { ended: Some(_) } | Self::HandedOver { lost: Some(_), .. } => {
                Some(SourceStep::Failed)
            }
            Self::Relinquishing { ended: None }
            | Self::HandedOver { lost: None, .. }
            | Self::MayBePromised { .. } => None,
            Self::Completed => Some(SourceStep::Completed),
        }
    }

    /// The guest cannot run here any more, `waited` after the target was ready.
    ///
    /// If the migration ended meanwhile, the target was not told and the guest goes on here; unless
    /// the target may have ended as well, without knowing whose the guest is. A person may have let
    /// it run there then, so that nobody can say where it is.
    ///
    /// # Errors
    /// When the guest goes on here, with the reason why the migration ended.
    pub(super) fn relinquished(
        &mut self,
        waited: Duration,
        stopped: StoppedOwnership,
        ready: TargetReady,
    ) -> Result<(), (StoppedOwnership, Option<MigrationError>)> {
        let Self::Relinquishing { ended } = self else {
            return Err((stopped, None));
        };
        let lost = match ended.take() {
            Some(error) if !target_may_be_in_doubt(&error, waited) => {
                return Err((stopped, Some(error)));
            }
            lost => lost,
        };
        *self = Self::HandedOver {
            _proof: stopped.hand_over(ready),
            kept_by_target: false,
            lost,
        };
        Ok(())
    }

    /// Whether the migration ended before the target was told, `waited` after it was ready, and the
    /// target cannot be in doubt: the guest goes on here.
    pub(super) fn keeps_guest(&self, waited: Duration) -> bool {
        match self {
            Self::Relinquishing { ended: Some(error) } => !target_may_be_in_doubt(error, waited),
            _ => false,
        }
    }

    /// The guest cannot run here any more, and the journal says so: what ended the migration
    /// meanwhile leaves the target to be asked.
    pub(super) fn promised(&mut self, stopped: StoppedOwnership, ready: TargetReady) {
        let lost = match self {
            Self::Relinquishing { ended } => ended.take(),
            _ => None,
        };
        *self = Self::HandedOver {
            _proof: stopped.hand_over(ready),
            kept_by_target: false,
            lost,
        };
    }

    /// The guest cannot run here any more, and nobody knows whether the journal says whose it is:
    /// neither side runs it before that is settled.
    pub(super) fn may_be_promised(&mut self, stopped: StoppedOwnership, ready: TargetReady) {
        *self = Self::MayBePromised {
            _proof: stopped.hand_over(ready),
        };
    }

    /// The target ended the migration for a reason of that kind. Once it was granted the guest
    /// there is one reason of the guest's: it has it, and does not run it.
    pub(super) fn aborted_by_target(&mut self, code: AbortCode) {
        if let Self::HandedOver { kept_by_target, .. } = self {
            *kept_by_target |= code == AbortCode::Guest;
        }
    }

    /// The target is asked over a new connection.
    pub(super) fn reconnected(&mut self) {
        if let Self::HandedOver { lost, .. } = self {
            *lost = None;
        }
    }

    /// Something ends the migration. Returns it if the guest is the source's, and stays so.
    pub(super) fn fail(&mut self, error: MigrationError) -> Option<MigrationError> {
        match self {
            Self::Ready(_) => Some(error),
            Self::HandedOver { lost: first, .. } | Self::Relinquishing { ended: first } => {
                first.get_or_insert(error);
                None
            }
            Self::MayBePromised { .. } | Self::Completed => None,
        }
    }

    /// Why it cannot go on, once.
    pub(super) fn take_failure(&mut self) -> Option<MigrationError> {
        match self {
            Self::HandedOver { lost: first, .. } | Self::Relinquishing { ended: first } => {
                first.take()
            }
            Self::Ready(_) | Self::MayBePromised { .. } | Self::Completed => None,
        }
    }

    /// Whether there is nothing more to do, unless a new connection is made.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::HandedOver { lost: first, .. } | Self::Relinquishing { ended: first } => {
                first.is_some()
            }
            Self::Ready(_) => false,
            Self::MayBePromised { .. } | Self::Completed => true,
        }
    }

    /// Whether the target is prepared, and nothing was done about it yet.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// Whether the guest was relinquished, or may have been.
    pub(super) fn has_handed_over(&self) -> bool {
        matches!(
            self,
            Self::HandedOver { .. } | Self::MayBePromised { .. } | Self::Completed
        )
    }

    /// Where the guest is if the migration fails now.
    pub(super) fn guest_location(&self) -> GuestLocation {
        match self {
            Self::Ready(_) | Self::Relinquishing { .. } => GuestLocation::Source,
            Self::HandedOver { kept_by_target, .. } if !kept_by_target => GuestLocation::Unknown,
            Self::MayBePromised { .. } => GuestLocation::Unknown,
            Self::HandedOver { .. } | Self::Completed => GuestLocation::Target,
        }
    }

    /// In the public word.
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Ready(_) | Self::Relinquishing { .. } => Phase::Ready,
            Self::HandedOver { .. } | Self::MayBePromised { .. } => Phase::HandingOver,
            Self::Completed => Phase::Completed,
        }
    }
}

/// Whether a prepared target may have ended without knowing whose the guest is, `waited` after it
/// was ready, if this side's migration ended by `error` and the target was told nothing.
fn target_may_be_in_doubt(error: &MigrationError, waited: Duration) -> bool {
    match error {
        // What was to run the guest there has ended.
        MigrationError::PeerAborted {
            code: AbortCode::Guest,
            ..
        } => false,
        MigrationError::PeerAborted { .. } => true,
        // By itself it does not end sooner.
        _ => waited >= IN_DOUBT - PEER_SILENCE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::ownership::Ownership;

    fn aborted(code: AbortCode) -> MigrationError {
        MigrationError::PeerAborted {
            code,
            reason: String::new(),
        }
    }

    /// The migration ends by `error` while the guest is relinquished, which takes so long.
    fn ended_by(error: MigrationError, waited: Duration) -> GuestLocation {
        let mut commit = Commit::Ready(TargetReady(()));
        let Some(SourceStep::HandOver(ready)) = commit.next_step() else {
            panic!("it is ready");
        };
        assert!(commit.fail(error).is_none() && commit.is_over());
        let stopped = Ownership::claim().stop();
        match commit.relinquished(waited, stopped, ready) {
            Ok(()) => {
                assert!(commit.has_handed_over() && commit.is_over());
                commit.guest_location()
            }
            Err((stopped, error)) => {
                let _runs = stopped.resume();
                assert!(error.is_some());
                GuestLocation::Source
            }
        }
    }

    #[test]
    fn a_guest_that_may_have_been_let_run_there_is_not_taken_back() {
        let soon = Duration::from_millis(1);
        let late = IN_DOUBT;
        let link = || MigrationError::PeerSilent { seconds: 5 };
        for (error, waited, guest) in [
            (link(), soon, GuestLocation::Source),
            (link(), late, GuestLocation::Unknown),
            (MigrationError::Cancelled, soon, GuestLocation::Source),
            (aborted(AbortCode::Other), soon, GuestLocation::Unknown),
            (aborted(AbortCode::Cancelled), late, GuestLocation::Unknown),
            (aborted(AbortCode::Guest), late, GuestLocation::Source),
        ] {
            let what = format!("{error:?} after {waited:?}");
            let mut commit = Commit::Relinquishing { ended: None };
            assert!(!commit.keeps_guest(waited), "it goes on");
            let again = match &error {
                MigrationError::PeerAborted { code, .. } => aborted(*code),
                MigrationError::Cancelled => MigrationError::Cancelled,
                _ => link(),
            };
            assert!(commit.fail(again).is_none());
            let keeps = guest == GuestLocation::Source;
            assert_eq!(commit.keeps_guest(waited), keeps, "{what}");
            assert_eq!(ended_by(error, waited), guest, "{what}");
        }
    }

    #[test]
    fn a_promise_that_is_in_the_journal_is_kept_whatever_happened_meanwhile() {
        let mut commit = Commit::Ready(TargetReady(()));
        let Some(SourceStep::HandOver(ready)) = commit.next_step() else {
            panic!("it is ready");
        };
        assert!(
            commit
                .fail(MigrationError::PeerSilent { seconds: 5 })
                .is_none()
        );
        commit.promised(Ownership::claim().stop(), ready);
        assert!(commit.has_handed_over() && commit.is_over());
        assert_eq!(commit.guest_location(), GuestLocation::Unknown);
        commit.reconnected();
        assert!(!commit.is_over(), "the target can be asked");
    }

    #[test]
    fn a_promise_that_may_be_kept_gives_the_guest_to_neither_side() {
        let mut commit = Commit::Ready(TargetReady(()));
        let Some(SourceStep::HandOver(ready)) = commit.next_step() else {
            panic!("it is ready");
        };
        commit.may_be_promised(Ownership::claim().stop(), ready);
        commit.reconnected();
        commit.aborted_by_target(AbortCode::Guest);
        assert!(commit.fail(MigrationError::Cancelled).is_none());
        assert!(commit.next_step().is_none(), "nobody is told");
        assert!(commit.has_handed_over() && commit.is_over());
        assert_eq!(commit.guest_location(), GuestLocation::Unknown);
    }

    #[test]
    fn once_handed_over_nothing_brings_it_back() {
        let mut commit = Commit::Ready(TargetReady(()));
        let Some(SourceStep::HandOver(ready)) = commit.next_step() else {
            panic!("it is ready");
        };
        let stopped = Ownership::claim().stop();
        assert!(commit.relinquished(Duration::ZERO, stopped, ready).is_ok());
        assert!(commit.fail(MigrationError::Cancelled).is_none());
        assert_eq!(commit.guest_location(), GuestLocation::Unknown);
        assert!(commit.take_failure().is_some());
        commit.reconnected();
        assert!(!commit.is_over() && commit.has_handed_over());
        commit.aborted_by_target(AbortCode::Other);
        assert_eq!(commit.guest_location(), GuestLocation::Unknown);
        commit.aborted_by_target(AbortCode::Guest);
        assert_eq!(commit.guest_location(), GuestLocation::Target);
    }
}
