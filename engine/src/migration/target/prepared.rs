//! A target that may not end by itself any more: what a lost connection then means.

use super::Target;
use super::commit::Commit;
use crate::migration::error::{GuestLocation, MigrationError};
use crate::units::Instant;
use crate::wire::{Message, SessionId};

impl Target {
    /// Whether this side may not end by itself any more: it has said that it is ready, and the
    /// source may have relinquished the guest.
    pub fn is_prepared(&self) -> bool {
        self.commit.is_prepared()
    }

    /// What came over the control connection, or its loss, ends the migration with `error`;
    /// unless this side is prepared and a source that reattaches can still settle it.
    pub fn control_failed(&mut self, now: Instant, error: MigrationError) {
        let misbehaved = matches!(error, MigrationError::PeerMisbehaved(_));
        match &self.commit {
            Commit::Prepared(_) if misbehaved => self.end(error),
            commit if commit.is_prepared() => self.commit.lost(now),
            _ => self.end(error),
        }
    }

    /// Whether the control connection is lost and has not been replaced.
    pub fn is_lost(&self) -> bool {
        self.commit.is_lost()
    }

    /// Whether this side may end because somebody asks for it. A target that is prepared must wait
    /// for the source, but not for one that is lost.
    pub fn may_cancel(&self) -> bool {
        self.commit.may_cancel()
    }

    /// Ends because somebody asks for it, if it [may](Self::may_cancel).
    pub fn cancel(&mut self) {
        if self.may_cancel() {
            let why = "cancelled before the source asked again";
            self.end(match self.is_prepared() {
                true => MigrationError::InDoubt(why.into()),
                false => MigrationError::Cancelled,
            });
        }
    }

    /// Whether this side waits for the word of its source, be that lost or not: one that is lost and
    /// asks again and again does not make the wait begin anew.
    pub fn waits_for_word(&self) -> bool {
        matches!(self.commit, Commit::Prepared(_))
    }

    /// Ends without the source's word, which did not come for too long.
    pub fn end_in_doubt(&mut self) {
        if self.waits_for_word() {
            let why = "the source has not said whose the guest is";
            self.end(MigrationError::InDoubt(why.into()));
        }
    }

    /// Whether the guest runs here and the source knows it.
    pub fn is_settled(&self) -> bool {
        let commit = &self.commit;
        matches!(commit, Commit::Running { is_settled, .. } if *is_settled)
    }

    /// Names the migration under way; `None` before the source has said so.
    pub fn session(&self) -> Option<SessionId> {
        self.hello.as_ref().map(|hello| hello.session)
    }

    /// Whether `session` is the migration under way.
    pub fn is_session(&self, session: SessionId) -> bool {
        self.session() == Some(session)
    }

    /// Whether a new control connection for `session` may take the place of the old one: only of
    /// one that is lost. A source that has noticed the loss first asks again until this side has.
    pub fn accepts_reattach(&self, session: SessionId) -> bool {
        self.is_session(session) && self.is_lost()
    }

    /// A source reattached: says where the hand-over stands.
    pub fn reattached(&mut self, now: Instant) {
        self.commit.heard();
        self.peer.reconnected(now);
        match self.commit {
            Commit::Running { cpu_us, .. } => self.peer.send(now, Message::Running { cpu_us }),
            Commit::Prepared(_) => self.peer.send(now, Message::Ready),
            _ => {}
        }
    }

    /// Something beside the control connection failed, which ends the migration unless this
    /// side is prepared. The first reason is kept.
    pub fn fail(&mut self, error: MigrationError) {
        if !self.is_prepared() {
            self.end(error);
        }
    }

    /// Ends the migration, unless the guest runs.
    pub fn end(&mut self, error: MigrationError) {
        self.commit.end(error);
    }

    /// Where the guest is if the migration fails now, as far as this side knows.
    pub fn guest_location(&self) -> GuestLocation {
        self.commit.guest_location()
    }
}
