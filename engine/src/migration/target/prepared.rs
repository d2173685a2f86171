//! A target that may not give up by itself any more: what a lost connection then means.
//!
//! From [`State::Ready`] on the source may have given up the right to run, and this side alone
//! cannot know. It waits for [`IN_DOUBT`] that a source asks over a new connection; until it has
//! heard from one, only a user may end it.

use super::{State, Target};
use crate::migration::IN_DOUBT;
use crate::migration::error::{GuestLocation, MigrationError};
use crate::units::Instant;
use crate::wire::{Message, SessionId};

impl Target {
    /// Whether this side may not give up by itself any more: it has said that it is ready, and
    /// the source may have given up the right to run.
    pub fn is_prepared(&self) -> bool {
        matches!(self.state, State::Ready | State::Starting | State::Running)
    }

    /// What came over the control connection, or its loss, ends the migration with `error`;
    /// unless this side is bound and a source that reattaches can still settle it.
    pub fn control_failed(&mut self, now: Instant, error: MigrationError) {
        let said = matches!(
            error,
            MigrationError::PeerAborted { .. } | MigrationError::PeerMisbehaved(_)
        );
        if !self.is_prepared() || (self.state == State::Ready && said) {
            self.end(error);
        } else {
            self.in_doubt_until
                .get_or_insert_with(|| now.after(IN_DOUBT));
        }
    }

    /// Whether the control connection is lost and has not been replaced.
    pub fn is_lost(&self) -> bool {
        self.in_doubt_until.is_some()
    }

    /// Whether this side may end because somebody asks for it. A target that is bound must wait
    /// for the source, but not for one that is lost.
    pub fn may_cancel(&self) -> bool {
        !self.is_over() && (!self.is_prepared() || (self.state == State::Ready && self.is_lost()))
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

    /// Whether the guest runs here and the source knows it.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether `session` is the migration under way.
    pub fn is_session(&self, session: SessionId) -> bool {
        let hello = self.hello.as_ref();
        hello.is_some_and(|hello| hello.session == session)
    }

    /// Whether a new control connection for `session` may take the place of the lost one.
    pub fn accepts_reattach(&self, session: SessionId) -> bool {
        self.is_session(session) && self.is_prepared()
    }

    /// A source reattached: says where the hand-over stands.
    pub fn reattached(&mut self, now: Instant) {
        self.heard(now);
        self.out.clear();
        match self.state {
            State::Running => self.say_running(now),
            State::Ready => self.say(now, Message::Ready),
            _ => {}
        }
    }

    /// Something beside the control connection failed, which ends the migration unless this
    /// side is bound. The first reason is kept.
    pub fn fail(&mut self, error: MigrationError) {
        if !self.is_prepared() {
            self.end(error);
        }
    }

    /// Ends the migration, unless the guest runs.
    pub fn end(&mut self, error: MigrationError) {
        if self.state != State::Running {
            self.state = State::Failed;
            self.failure.get_or_insert(error);
        }
    }

    /// Where the guest is if the migration fails now, as far as this side knows.
    pub fn guest_location(&self) -> GuestLocation {
        if self.owns_guest {
            GuestLocation::Target
        } else if self.promised && !self.kept_by_source {
            GuestLocation::Unknown
        } else {
            GuestLocation::Source
        }
    }

    /// Whether the source has given the guest to this side.
    pub fn owns_guest(&self) -> bool {
        self.owns_guest
    }
}
