//! The journal of a hand-over: what a side has promised, kept where it outlives this process.
//!
//! A promise is recorded before the other side is told of it. Whoever comes after a crash asks the
//! journals of both sides, and [`settle`](crate::migration::settle) says whose the guest is.

use super::GuestError;
use crate::wire::SessionId;

/// What binds a side from the moment that it is recorded.
///
/// ```text
/// source: Moving -> HandedOver -> Released        target: Prepared -> Granted -> Running
///            |                                              |
///            +----> Kept                                    +-----> Abandoned
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promise {
    /// The source's guest may be taken back: nothing was promised.
    Moving,
    /// The guest is the target's. The source does not run it any more.
    HandedOver,
    /// The source knows that the target runs it.
    Released,
    /// The guest stays on the source, which does not hand it over in this migration.
    Kept,
    /// The target has all of the guest. It neither runs it nor lets go of it without the source's
    /// word.
    Prepared,
    /// The source has given its word.
    Granted,
    /// The guest runs on the target.
    Running,
    /// The target will not run it.
    Abandoned,
}

impl Promise {
    /// Whether it is one of a source.
    pub fn is_sources(self) -> bool {
        matches!(
            self,
            Self::Moving | Self::HandedOver | Self::Released | Self::Kept
        )
    }
}

/// Why a promise is not known to be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is not kept, and will not be: nothing was promised.
    #[error(transparent)]
    Refused(GuestError),
    /// It was asked for, and what came of it cannot be found out now. It may be kept, and may be kept
    /// later: who asked must do nothing that it forbids.
    #[error(transparent)]
    Unknown(GuestError),
}

/// Where promises are kept.
pub trait Journal {
    /// Keeps `promise` of the migration `session`, in place of what was kept before. It is safe
    /// from a crash of this process when this returns.
    ///
    /// For [`Promise::HandedOver`] this is the point of no return: what holds the guest's stop as
    /// a [lease](super::SourceGuest::hold_at_most) must refuse it if it has let the guest go on.
    ///
    /// # Errors
    /// [`RecordError`] says whether it may be kept all the same. For [`Promise::HandedOver`] the guest
    /// hangs on it: `Unknown` leaves it standing still, with neither side, until somebody settles
    /// that. So what keeps the journal is asked again first.
    fn record(&mut self, session: SessionId, promise: Promise) -> Result<(), RecordError>;
}
