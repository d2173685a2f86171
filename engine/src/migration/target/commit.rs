//! The target's half of the two-phase commit: whose guest it is, as far as this side knows.
//!
//! ```text
//! SourceOwns -> Prepared -> Granted -> Running
//!     |            |           |
//!     +------------+-----------+----> Ended
//! ```
//!
//! A prepared target may not end by itself: it has said that it is ready, and the source may have
//! relinquished the guest already. It waits for [`IN_DOUBT`] that a source which is lost asks over
//! a new connection; until it has heard from one, only a user may end it.
//!
//! How much of the guest's memory is here is another question: see [`Memory`](super::memory::Memory).

use crate::migration::IN_DOUBT;
use crate::migration::error::{GuestLocation, MigrationError};
use crate::migration::ownership::Granted;
use crate::units::Instant;

/// Whose guest it is.
#[derive(Debug)]
pub(super) enum Commit {
    /// The source's, and nothing was promised: this side may end at any time.
    SourceOwns {
        /// The caller was asked to load the device state.
        load_asked: bool,
    },
    /// The source's until it says otherwise, which it may have done.
    Prepared(Contact),
    /// This side's; it is to run.
    Granted {
        /// Until the caller has it.
        grant: Option<Granted>,
        contact: Contact,
    },
    /// This side's, and it runs.
    Running {
        /// Processor time of this process by then, in microseconds.
        cpu_us: u64,
        /// The source knows.
        is_settled: bool,
        contact: Contact,
    },
    /// The migration ended without completing here.
    Ended {
        /// Where the guest is, as far as this side knows.
        guest: GuestLocation,
        /// Why, until it is taken.
        error: Option<MigrationError>,
    },
}

/// The control connection of a target that may not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contact {
    Connected,
    /// The source may ask over a new connection until then.
    Lost {
        until: Instant,
    },
}

impl Commit {
    /// Nothing was promised yet.
    pub(super) fn new() -> Self {
        Self::SourceOwns { load_asked: false }
    }

    /// Whether the guest is the source's, and this side may end at any time.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::SourceOwns { .. })
    }

    /// Whether this side may not end by itself any more.
    pub(super) fn is_prepared(&self) -> bool {
        matches!(
            self,
            Self::Prepared(_) | Self::Granted { .. } | Self::Running { .. }
        )
    }

    /// Whether there is nothing more to do.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Ended { .. })
    }

    /// Whether the control connection is lost and was not replaced.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.contact(), Some(Contact::Lost { .. }))
    }

    /// Whether this side may end because somebody asks for it. A prepared target must wait for the
    /// source, but not for one that is lost.
    pub(super) fn may_cancel(&self) -> bool {
        matches!(
            self,
            Self::SourceOwns { .. } | Self::Prepared(Contact::Lost { .. })
        )
    }

    /// Where the guest is if the migration fails now, as far as this side knows.
    pub(super) fn guest_location(&self) -> GuestLocation {
        match self {
            Self::SourceOwns { .. } => GuestLocation::Source,
            Self::Prepared(_) => GuestLocation::Unknown,
            Self::Granted { .. } | Self::Running { .. } => GuestLocation::Target,
            Self::Ended { guest, .. } => *guest,
        }
    }

    /// The source is heard.
    pub(super) fn heard(&mut self) {
        if let Some(contact) = self.contact_mut() {
            *contact = Contact::Connected;
        }
    }

    /// The control connection of a prepared target is lost.
    pub(super) fn lost(&mut self, now: Instant) {
        if let Some(contact @ Contact::Connected) = self.contact_mut() {
            let until = now.after(IN_DOUBT);
            *contact = Contact::Lost { until };
        }
    }

    /// Whether a prepared target has waited long enough for a source that is lost.
    pub(super) fn is_in_doubt_for_good(&self, now: Instant) -> bool {
        matches!(self, Self::Prepared(Contact::Lost { until }) if now >= *until)
    }

    /// The source has relinquished the guest; whether it may say so now.
    pub(super) fn grant(&mut self) -> bool {
        match self {
            Self::Prepared(contact) => {
                *self = Self::Granted {
                    grant: Some(Granted(())),
                    contact: *contact,
                };
                true
            }
            // It did not get the answer, and asked again after a reattach.
            Self::Granted { .. } | Self::Running { .. } => true,
            Self::SourceOwns { .. } | Self::Ended { .. } => false,
        }
    }

    /// The source knows that the guest runs here; whether it may say so now.
    pub(super) fn settle(&mut self) -> bool {
        match self {
            Self::Running { is_settled, .. } => {
                *is_settled = true;
                true
            }
            _ => false,
        }
    }

    /// The source keeps the guest, because of `error`.
    pub(super) fn kept_by_source(&mut self, error: MigrationError) {
        if let Self::SourceOwns { .. } | Self::Prepared(_) = self {
            *self = Self::Ended {
                guest: GuestLocation::Source,
                error: Some(error),
            };
        }
    }

    /// The migration ends because of `error`, unless the guest runs here. The first reason is kept.
    pub(super) fn end(&mut self, error: MigrationError) {
        match self {
            Self::Running { .. } => {}
            Self::Ended { error: first, .. } => {
                first.get_or_insert(error);
            }
            Self::SourceOwns { .. } | Self::Prepared(_) | Self::Granted { .. } => {
                *self = Self::Ended {
                    guest: self.guest_location(),
                    error: Some(error),
                };
            }
        }
    }

    /// Why it ended, once.
    pub(super) fn take_failure(&mut self) -> Option<MigrationError> {
        match self {
            Self::Ended { error, .. } => error.take(),
            _ => None,
        }
    }

    fn contact(&self) -> Option<Contact> {
        match self {
            Self::Prepared(contact)
            | Self::Granted { contact, .. }
            | Self::Running { contact, .. } => Some(*contact),
            Self::SourceOwns { .. } | Self::Ended { .. } => None,
        }
    }

    fn contact_mut(&mut self) -> Option<&mut Contact> {
        match self {
            Self::Prepared(contact)
            | Self::Granted { contact, .. }
            | Self::Running { contact, .. } => Some(contact),
            Self::SourceOwns { .. } | Self::Ended { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant(1_000_000_000);

    fn cancelled() -> MigrationError {
        MigrationError::Cancelled
    }

    #[test]
    fn where_the_guest_is_follows_from_what_was_said() {
        let mut open = Commit::new();
        open.end(cancelled());
        assert_eq!(open.guest_location(), GuestLocation::Source);

        let prepared = || Commit::Prepared(Contact::Connected);
        let mut ended = prepared();
        ended.end(cancelled());
        assert_eq!(ended.guest_location(), GuestLocation::Unknown);
        assert!(!ended.grant(), "it has promised that it does not listen");

        let mut kept = prepared();
        kept.kept_by_source(cancelled());
        kept.end(MigrationError::PeerSilent { seconds: 5 });
        assert_eq!(kept.guest_location(), GuestLocation::Source);
        assert!(matches!(
            kept.take_failure(),
            Some(MigrationError::Cancelled)
        ));

        let mut granted = prepared();
        assert!(granted.grant());
        granted.kept_by_source(cancelled());
        granted.end(cancelled());
        assert_eq!(granted.guest_location(), GuestLocation::Target);
    }

    #[test]
    fn a_source_that_is_lost_has_its_time_and_is_found_again() {
        let mut commit = Commit::Prepared(Contact::Connected);
        assert!(!commit.may_cancel());
        commit.lost(NOW);
        commit.lost(NOW.after(IN_DOUBT / 2));
        assert!(commit.is_lost() && commit.may_cancel());
        assert!(!commit.is_in_doubt_for_good(NOW.after(IN_DOUBT / 2)));
        assert!(commit.is_in_doubt_for_good(NOW.after(IN_DOUBT)));
        commit.heard();
        assert!(!commit.is_lost() && !commit.may_cancel());
        assert!(!commit.is_in_doubt_for_good(NOW.after(IN_DOUBT)));
        commit.lost(NOW);
        assert!(commit.grant());
        assert!(commit.is_lost() && !commit.may_cancel(), "it runs");
        assert!(!commit.is_in_doubt_for_good(NOW.after(IN_DOUBT)));
    }
}
