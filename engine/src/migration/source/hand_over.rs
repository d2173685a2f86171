//! The end of a migration on the source: digests, device state, and the right to run.
//!
//! Invariant: from [`Source::handed_over`] on this side does not say that the guest may run here;
//! only the target's word that it runs there, or that it has it, settles where it is.

use super::{Source, State};
use crate::migration::error::{GuestLocation, MigrationError};
use crate::migration::ownership::Relinquished;
use crate::units::{ByteCount, Instant};
use crate::wire::Message;

impl Source {
    /// The digest of this side's memory, after the guest stopped.
    ///
    /// # Errors
    /// When it differs from the target's.
    pub fn digested(&mut self, now: Instant, digest: u128) -> Result<(), MigrationError> {
        self.digest_here = Some(digest);
        self.settle_complete(now)
    }

    /// The device state has been sent, or is on its way without further help.
    pub fn state_sent(&mut self) {
        if self.state == State::SavingState {
            self.state = State::Loading;
        }
    }

    /// `count` bytes of device state went to the target.
    pub fn count_state_bytes(&mut self, count: ByteCount) {
        self.state_bytes += count;
    }

    /// The right to run was given up; tells the target.
    pub fn handed_over(&mut self, now: Instant, _gone: Relinquished) {
        self.handed_over = true;
        self.state = State::HandedOver;
        self.say(now, Message::HandOver);
    }

    /// A lost control connection was replaced after the hand-over: asks the target where it
    /// stands.
    pub fn reattached(&mut self, now: Instant) {
        self.out.clear();
        self.failure = None;
        self.liveness.heard(now);
        let session = self.session;
        self.say(now, Message::Reattach(session));
    }

    /// Ends the migration. The first reason is kept.
    ///
    /// After the hand-over the machine stays where it was: [`reattached`](Self::reattached) may
    /// still bring it to its end.
    pub fn fail(&mut self, error: MigrationError) {
        match self.state {
            State::Completed => return,
            State::HandedOver => {}
            _ => self.state = State::Failed,
        }
        self.failure.get_or_insert(error);
    }

    /// Whether the source has given up the right to run.
    pub fn has_handed_over(&self) -> bool {
        self.handed_over
    }

    /// Where the guest is when the migration fails now, as far as the protocol knows.
    pub fn guest_location(&self) -> GuestLocation {
        match self.state {
            State::Completed => GuestLocation::Target,
            _ if self.kept_by_target => GuestLocation::Target,
            _ if self.handed_over => GuestLocation::Unknown,
            _ => GuestLocation::Source,
        }
    }

    /// Goes on once the target has everything and, in verify mode, both digests are there.
    pub(super) fn settle_complete(&mut self, now: Instant) -> Result<(), MigrationError> {
        if !self.placed_all || self.state != State::Completing {
            return Ok(());
        }
        match (self.verify, self.digest_here, self.digest_there) {
            (true, Some(here), Some(there)) if here != there => {
                return Err(MigrationError::DigestMismatch { here, there });
            }
            (true, None, _) => return Ok(()),
            _ => {}
        }
        self.state = State::SavingState;
        self.times.complete = now;
        Ok(())
    }
}
